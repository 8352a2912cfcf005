"""The KV cache changes nothing, and the rows of a batch do not change each other."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
from collections import Counter
from typing import Any

import pytest

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import numpy as np
import torch

from eto_agents.models.base import Sampling
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.local.cached_runner import cache_argument, split_by_length
from eto_agents.models.local.runner import UncachedRunner
from eto_agents.models.local.sampler import sample_replies
from eto_agents.react.chat import encode
from tests.agents.models.local.random_models import (
    ARCHITECTURES,
    END,
    TOKENIZER,
    assistant,
    checkpoint_of,
    first_chat,
    full_log_probs,
    local_model,
    play,
    swap_heads,
    user,
)

pytestmark = pytest.mark.torch


def make_one_token_end_turns(checkpoint: Checkpoint, replies: Any) -> None:
    """Let the end token take the place of a token that is sampled now and then."""
    counts = Counter(token for _, completion in replies for token in completion.token_ids)
    rare = min((n, token) for token, n in counts.items() if n >= 5)[1]
    swap_heads(checkpoint, END, rare)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_is_uncached(architecture: str) -> None:
    checkpoint = checkpoint_of(architecture)
    sampling = Sampling(max_tokens=32, stop=())
    make_one_token_end_turns(checkpoint, play(local_model(checkpoint), sampling))
    model = local_model(checkpoint)
    sampled_ids: dict[str, dict[int, list[int]]] = {}
    n_tokens = n_ended = 0
    for chat, completion in play(model, sampling, n_turns=9):
        assert completion.token_ids is not None
        sampled = sampled_ids.get(json.dumps(chat[:-1]), {})
        context = encode(chat, TOKENIZER, "plain", for_reply=True, sampled=sampled).ids
        assert completion.usage["prompt_tokens"] == len(context)
        log_probs = full_log_probs(checkpoint.model, context, completion.token_ids)
        # Each token is the likeliest after the ones before it: what greedy decoding without a
        # cache would give.
        assert log_probs.argmax(-1).tolist() == completion.token_ids
        own = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert own.tolist() == pytest.approx(completion.log_probs, abs=1e-4)
        after = [*chat, assistant(completion.text)]
        sampled_ids[json.dumps(after)] = sampled | {len(chat): completion.token_ids}
        n_tokens += len(completion.token_ids)
        n_ended += completion.finish_reason == "stop"
    assert n_tokens >= 1000
    assert n_ended > 0
    assert model.totals["cached_tokens"] > 0.6 * model.totals["prompt_tokens"]


def test_no_token_is_computed_twice() -> None:
    checkpoint = checkpoint_of()
    n_computed = 0

    def count(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        nonlocal n_computed
        n_computed += arguments["input_ids"].numel()

    model = local_model(checkpoint)
    checkpoint.model.register_forward_pre_hook(count, with_kwargs=True)
    chat = first_chat(0)
    sampling = Sampling(max_tokens=8, stop=())
    for turn in range(4):
        (completion,) = model.generate([chat], sampling)
        chat += [assistant(completion.text), user(f"Page {turn}")]
    n_all = model.count_tokens(chat[:-2]) + len(completion.token_ids or [])
    assert n_computed == n_all - 1  # nothing follows the last token


def test_replies_with_and_without_a_cache_are_the_same() -> None:
    checkpoint = checkpoint_of()
    sampling = Sampling(max_tokens=12, stop=("p 1",), temperature=0.8, top_p=0.9)
    fast, slow = (
        play(local_model(checkpoint, with_cache=with_cache), sampling, 4, 3)
        for with_cache in (True, False)
    )
    for (chat, completion), (slow_chat, slow_completion) in zip(fast, slow, strict=True):
        assert chat == slow_chat
        assert completion.text == slow_completion.text
        assert completion.token_ids == slow_completion.token_ids
        assert completion.log_probs == pytest.approx(slow_completion.log_probs, abs=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_batch": 1},
        {"max_batch": 4},
        {"max_cache_gib": 1e-9},  # one row at a time
        {"max_cache_gib": 3 * 256 * 2 * 2 * 2 * 8 * 4 / 2**30},  # three rows of 256 tokens
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_do_not_depend_on_each_other(arguments: dict[str, Any], temperature: float) -> None:
    checkpoint = checkpoint_of()
    sampling = Sampling(temperature, max_tokens=10, stop=())
    expected = play(local_model(checkpoint), sampling)
    got = play(local_model(checkpoint, **arguments), sampling)
    for (chat, completion), (other_chat, other) in zip(expected, got, strict=True):
        assert (chat, completion.token_ids) == (other_chat, other.token_ids)
        assert completion.log_probs == pytest.approx(other.log_probs, abs=1e-4)


def test_the_batch_shrinks_as_replies_end() -> None:
    model = local_model(checkpoint_of())
    prompts = [list(range(20, 60 + 3 * i)) for i in range(9)]
    budgets = [3, 40, 1, 17, 2, 30, 9, 4, 40]
    sampling = Sampling(stop=())

    def replies(runner: Any) -> Any:
        with torch.inference_mode():
            return sample_replies(runner, prompts, budgets, sampling, None, model._vocabulary)[0]

    expected = replies(UncachedRunner(model.model))
    assert [len(reply.drawn_ids) for reply in expected] == budgets
    for _ in range(2):  # the second time from the cache
        got = replies(model._runner)
        assert [reply.drawn_ids for reply in got] == [reply.drawn_ids for reply in expected]


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_both_names_of_the_cache_work(name: str) -> None:
    checkpoint = checkpoint_of()
    base: Any = type(checkpoint.model)
    here = "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"

    class WithCache(base):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, cache: Any = None, **others: Any) -> Any:
            return super().forward(input_ids, **{here: cache}, **others)

    class WithPastKeyValues(base):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, past_key_values: Any = None, **others: Any) -> Any:
            return super().forward(input_ids, **{here: past_key_values}, **others)

    chats, sampling = [[user("A lamp?")], [user("A desk?")]], Sampling(max_tokens=8, stop=())
    expected = local_model(checkpoint).generate(chats, sampling)
    checkpoint.model.__class__ = WithCache if name == "cache" else WithPastKeyValues
    assert cache_argument(checkpoint.model) == name
    got = local_model(checkpoint).generate(chats, sampling)
    assert [reply.token_ids for reply in got] == [reply.token_ids for reply in expected]


def test_a_model_without_a_cache_is_refused() -> None:
    class Alone:
        def forward(self, input_ids: Any) -> None: ...

    with pytest.raises(TypeError, match=r"Alone\.forward takes neither cache nor past_key_values"):
        cache_argument(Alone())


@pytest.mark.parametrize("seed", range(20))
def test_no_division_into_passes_costs_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = [10, 100, 3000][seed % 3]
    lengths = {int(row): int(rng.integers(1, scale)) for row in rng.permutation(20)[:9]}
    ordered = sorted(lengths, key=lambda row: (-lengths[row], row))

    def cost(passes: list[list[int]]) -> float:
        n_tokens = [len(rows) * max(lengths[row] for row in rows) for rows in passes]
        too_many = any(n > 8192 and len(rows) > 1 for n, rows in zip(n_tokens, passes, strict=True))
        return float("inf") if too_many else sum(n + 48 for n in n_tokens)

    costs = []
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        passes = [[ordered[0]]]
        for row, is_cut in zip(ordered[1:], cuts, strict=True):
            if is_cut:
                passes.append([])
            passes[-1].append(row)
        costs.append(cost(passes))
    passes = split_by_length(lengths)
    assert sorted(row for rows in passes for row in rows) == sorted(lengths)
    assert cost(passes) == min(costs)
