"""Models of `transformers`: the cache changes nothing, and neither do the rows beside a row."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_agents.models.base import Completion, Sampling, load_model
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.chat import encode
from eto_agents.rollout import Rollouts, jobs_of, make_batch
from eto_envs.errors import CorruptDataError, DataNotFoundError

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch
import transformers

from eto_agents.models.checkpoint import Checkpoint, load_local_model, save_checkpoint
from eto_agents.models.local import LocalModel
from eto_agents.models.local.cached_runner import cache_argument
from eto_agents.models.local.runner import UncachedRunner
from eto_agents.models.local.sampler import sample_inverse_cdf, sample_replies
from eto_agents.models.local.support import UnsupportedModelError
from eto_agents.models.tiny import train_tokenizer

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 asks transformers 5.23 by a name that is on its way out.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

TEXT = "Thought: I search for a desk lamp. Action: search[desk lamp] Observation: Page 1 of 3"
TOKENIZER = train_tokenizer([TEXT], vocab_size=320)
END = TOKENIZER.convert_tokens_to_ids("<|end|>")
SHAPE = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "eos_token_id": END,
    "bos_token_id": None,
    "pad_token_id": 0,
}
WINDOWS = {"layer_types": ["full_attention", "sliding_attention"]}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", WINDOWS | {"use_sliding_window": True, "sliding_window": 24}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 24}),
    "gemma3": ("Gemma3Text", WINDOWS | {"sliding_window": 24}),
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def checkpoint_of(architecture: str = "llama", **changes: Any) -> Checkpoint:
    """A random model with decided opinions: near ties would make greedy choices a matter of luck.

    It says everything but reserved tokens, its end excepted.
    """
    family, shape = ARCHITECTURES[architecture]
    config = getattr(transformers, f"{family}Config")(**SHAPE | shape | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.35)
            model.lm_head.weight[:END] = 0
    return Checkpoint(model.eval(), TOKENIZER, "plain")


def local_model(checkpoint: Checkpoint, **arguments: Any) -> LocalModel:
    return LocalModel(
        checkpoint.model,
        checkpoint.tokenizer,
        checkpoint.template,
        prompts=checkpoint.prompts,
        with_example=checkpoint.with_example,
        **arguments,
    )


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def first_chat(number: int) -> list[Any]:
    return [user(TEXT), assistant("OK"), user(f"Task {number}: " + "a lamp, " * (number % 5))]


def play(model: LocalModel, sampling: Sampling, n_slots: int = 6, n_turns: int = 7) -> Any:
    """Episodes of two to five turns, new ones for those that end; chat and completion of each."""
    numbers = itertools.count()
    lives = [(next(numbers), first_chat(slot)) for slot in range(n_slots)]
    lives = [(number, first_chat(number)) for number, _ in lives]
    said = []
    for turn in range(n_turns):
        done = model.generate(
            [chat for _, chat in lives], sampling, [100 * number + turn for number, _ in lives]
        )
        for i, completion in enumerate(done):
            assert not completion.error
            number, chat = lives[i]
            said.append((list(chat), completion))
            chat.append(assistant(completion.text))
            chat.append(user(f"Page {turn} " + "of 3, " * (7 * number % 11)))
            if len(chat) > 3 + 2 * (2 + number % 4):
                number = next(numbers)
                lives[i] = number, first_chat(number)
    return said


def end_sometimes(checkpoint: Checkpoint, said: Any) -> None:
    """Let the end of turn take the place of a token that is drawn now and then."""
    counts = Counter(token for _, completion in said for token in completion.token_ids)
    rare = min((n, token) for token, n in counts.items() if n >= 5)[1]
    swap_heads(checkpoint, END, rare)


def swap_heads(checkpoint: Checkpoint, a: int, b: int) -> None:
    """Let two tokens be drawn for each other."""
    with torch.no_grad():
        head = checkpoint.model.lm_head.weight
        head[[a, b]] = head[[b, a]]


def full_log_probs(model: Any, context: Sequence[int], reply: Sequence[int]) -> torch.Tensor:
    """Of all tokens where the reply's are drawn, from one pass without a cache."""
    with torch.inference_mode():
        ids = torch.tensor([[*context, *reply]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1]
    return torch.log_softmax(logits.float(), -1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cached_is_uncached(architecture: str) -> None:
    checkpoint = checkpoint_of(architecture)
    sampling = Sampling(max_tokens=32, stop=())
    end_sometimes(checkpoint, play(local_model(checkpoint), sampling))
    model = local_model(checkpoint)
    drawn: dict[str, dict[int, list[int]]] = {}
    n_tokens = n_ended = 0
    for chat, completion in play(model, sampling, n_turns=9):
        assert completion.token_ids is not None
        sampled = drawn.get(json.dumps(chat[:-1]), {})
        context = encode(chat, TOKENIZER, "plain", for_reply=True, sampled=sampled).ids
        assert completion.usage["prompt_tokens"] == len(context)
        log_probs = full_log_probs(checkpoint.model, context, completion.token_ids)
        # Each token is the likeliest after those before it, so all are what is drawn uncached.
        assert log_probs.argmax(-1).tolist() == completion.token_ids
        own = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert own.tolist() == pytest.approx(completion.log_probs, abs=1e-4)
        said = [*chat, assistant(completion.text)]
        drawn[json.dumps(said)] = sampled | {len(chat): completion.token_ids}
        n_tokens += len(completion.token_ids)
        n_ended += completion.finish_reason == "stop"
    assert n_tokens >= 1000
    assert n_ended > 0
    assert model.totals["cached_tokens"] > 0.6 * model.totals["prompt_tokens"]


def test_no_prefix_is_read_twice() -> None:
    checkpoint = checkpoint_of()
    n_read = 0

    def count(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        nonlocal n_read
        n_read += arguments["input_ids"].numel()

    model = local_model(checkpoint)
    checkpoint.model.register_forward_pre_hook(count, with_kwargs=True)
    chat = first_chat(0)
    sampling = Sampling(max_tokens=8, stop=())
    for turn in range(4):
        (completion,) = model.generate([chat], sampling)
        chat += [assistant(completion.text), user(f"Page {turn}")]
    n_all = model.count_tokens(chat[:-2]) + len(completion.token_ids or [])
    assert n_read == n_all - 1  # the last token drawn is read by nobody


def test_the_model_without_cache_is_the_same() -> None:
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


def test_rows_that_end_make_room_for_the_others() -> None:
    model = local_model(checkpoint_of())
    prompts = [list(range(20, 60 + 3 * i)) for i in range(9)]
    budgets = [3, 40, 1, 17, 2, 30, 9, 4, 40]
    sampling = Sampling(stop=())

    def continued(reader: Any) -> Any:
        with torch.inference_mode():
            return sample_replies(reader, prompts, budgets, sampling, None, model._vocabulary)[0]

    expected = continued(UncachedRunner(model.model))
    assert [len(reply.drawn_ids) for reply in expected] == budgets
    for _ in range(2):  # the second time from what rows hold
        got = continued(model._runner)
        assert [reply.drawn_ids for reply in got] == [reply.drawn_ids for reply in expected]


def make_policy(checkpoint: Checkpoint, **arguments: Any) -> ReActPolicy:
    return ReActPolicy(local_model(checkpoint), max_tokens=8, **arguments)


def webshop(policy: Any, batch_size: int, n_tasks: int = 10) -> dict[str, Any]:
    env = make_batch("ETO-WebShop-v0", policy, batch_size, {"dataset": "mini", "max_steps": 6})
    tasks = list(itertools.islice(env.envs[0].tasks, n_tasks))
    episodes = list(Rollouts(policy, env, jobs_of(tasks, [0])))
    env.close()
    assert [episode.error for episode in episodes if episode.error] == []
    return {episode.task_id: episode for episode in episodes}


def test_batches_of_1_8_and_64_play_the_same_episodes() -> None:
    played = [webshop(make_policy(checkpoint_of()), batch_size) for batch_size in (1, 8, 64)]
    texts = [
        {task: [step.token_ids for step in episode.steps] for task, episode in episodes.items()}
        for episodes in played
    ]
    assert len(texts[0]) == 10
    assert texts[0] == texts[1] == texts[2]


def test_turns_are_dropped_where_the_context_ends() -> None:
    checkpoint = checkpoint_of(max_position_embeddings=1450)
    policy = make_policy(checkpoint, with_example=False)
    episodes = webshop(policy, 4, 4)
    dropped = [step.usage["dropped_turns"] for e in episodes.values() for step in e.steps]
    assert max(dropped) > 0
    assert all(
        step.usage["prompt_tokens"] + step.usage["completion_tokens"] <= 1450
        for episode in episodes.values()
        for step in episode.steps
    )


def test_a_chat_longer_than_the_context_is_an_error_of_its_own() -> None:
    model = local_model(checkpoint_of(max_position_embeddings=100))
    long, short = model.generate([[user("lamp " * 300)], [user("lamp")]], Sampling(max_tokens=4))
    assert "drop turns" in long.error
    assert short.error == ""
    nearly = [user("a" * (98 - model.count_tokens([user("")])))]
    assert model.count_tokens(nearly) == 98
    (cut,) = model.generate([nearly], Sampling(max_tokens=10, stop=()))
    assert cut.finish_reason == "length"
    assert len(cut.token_ids or []) <= 2
    assert model.generate([], Sampling()) == []
    (wrong,) = model.generate([[assistant("hello")]], Sampling())
    assert "roles" in wrong.error


def test_seeds_decide_and_nothing_else_does() -> None:
    model = local_model(checkpoint_of())
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=12, stop=())
    chats = [[user("A lamp?")]] * 3
    state = torch.random.get_rng_state()
    a, b, c = model.generate(chats, sampling, [5, 6, 5])
    assert a.token_ids == c.token_ids != b.token_ids
    (alone,) = model.generate(chats[:1], sampling, [6])
    assert alone.token_ids == b.token_ids
    without = [model.generate(chats[:1], sampling)[0].token_ids for _ in range(3)]
    assert without[0] != without[1] or without[1] != without[2]
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("top_p", "expected"), [(1.0, [0.1, 0.2, 0.3, 0.4]), (0.6, [0, 0, 3, 4])])
def test_draws_follow_the_distribution(top_p: float, expected: list[float]) -> None:
    n = 20_000
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(n, 4)
    at = torch.from_numpy(np.random.default_rng(0).random(n))
    shares = np.bincount(sample_inverse_cdf(logits, at, top_p).numpy(), minlength=4) / n
    assert shares == pytest.approx(np.array(expected) / sum(expected), abs=0.015)
    edge = torch.tensor([1 - 1e-16, 0.0], dtype=torch.float64)
    ends = sample_inverse_cdf(torch.tensor([[0.0, 0.0, -200.0]] * 2), edge, 1.0)
    assert ends.tolist() == [1, 0]


def free_reply(model: LocalModel, chat: list[Any]) -> Completion:
    return model.generate([chat], Sampling(max_tokens=24, stop=()))[0]


@pytest.mark.parametrize("first", [3, 8, 11])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_stops_end_a_reply_before_them(first: int, length: int) -> None:
    model = local_model(checkpoint_of())
    chat = [user("A lamp?")]
    text = free_reply(model, chat).text
    stop = text[first : first + length]
    (completion,) = model.generate([chat], Sampling(max_tokens=24, stop=("never", stop)))
    expected = text.partition(stop)[0]
    assert completion.text == expected
    assert completion.finish_reason == "stop"
    ids = completion.token_ids
    assert ids is not None
    assert completion.log_probs is not None
    assert len(ids) == len(completion.log_probs)
    assert expected.startswith(TOKENIZER.decode(ids))
    # The chat goes on from the text before the stop, and from no more.
    after = [*chat, assistant(completion.text), user("Go on.")]
    heard = TOKENIZER.decode(model._encoder.encode(after))
    assert f"<|assistant|>{expected}<|end|>" in heard


def test_the_end_of_turn_ends_a_reply_and_is_one_of_its_tokens() -> None:
    checkpoint = checkpoint_of()
    chat = [user("A lamp?")]
    ids = free_reply(local_model(checkpoint), chat).token_ids
    assert ids is not None
    at = next(i for i in range(3, 20) if ids[i] not in ids[:i])
    swap_heads(checkpoint, END, ids[at])
    model = local_model(checkpoint)
    done = free_reply(model, chat)
    assert done.token_ids == [*ids[:at], END]
    assert done.finish_reason == "stop"
    assert done.text == TOKENIZER.decode(ids[:at])
    cut = model.generate([chat], Sampling(max_tokens=at, stop=()))[0]
    assert (cut.finish_reason, cut.token_ids) == ("length", ids[:at])


def test_reserved_tokens_in_a_reply_are_heard_as_text() -> None:
    checkpoint = checkpoint_of()
    chat = [user("A lamp?")]
    ids = free_reply(local_model(checkpoint), chat).token_ids
    assert ids is not None
    forged = TOKENIZER.convert_tokens_to_ids("<|user|>")
    swap_heads(checkpoint, forged, ids[2])
    model = local_model(checkpoint)
    done = free_reply(model, chat)
    assert forged in (done.token_ids or [])
    after = [*chat, assistant(done.text), user("Go on.")]
    expected = encode(after, TOKENIZER, "plain", for_reply=True).ids
    assert model._encoder.encode(after) == expected
    assert expected.count(forged) == 2
    assert not model.generate([after], Sampling(max_tokens=3))[0].error


def test_training_makes_it_forget() -> None:
    checkpoint = checkpoint_of()
    model = local_model(checkpoint)
    chat = first_chat(1)
    checkpoint.model.train()
    before = free_reply(model, chat)
    assert checkpoint.model.training
    optimizer = torch.optim.SGD(checkpoint.model.parameters(), lr=0.5)
    ids = torch.tensor([encode(chat, TOKENIZER).ids])
    checkpoint.model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    after = free_reply(model, chat)
    fresh = free_reply(local_model(checkpoint), chat)
    assert after.token_ids == fresh.token_ids
    assert after.log_probs == pytest.approx(fresh.log_probs, abs=1e-5)
    assert after.log_probs != pytest.approx(before.log_probs, abs=1e-3)


def test_half_precision() -> None:
    checkpoint = checkpoint_of()
    checkpoint.model.bfloat16()
    model = local_model(checkpoint)
    assert model.provenance["dtype"] == "bfloat16"
    for chat, completion in play(model, Sampling(max_tokens=8, stop=()), 3, 3)[:3]:
        assert completion.token_ids is not None
        log_probs = full_log_probs(
            checkpoint.model, model._encoder.encode(chat), completion.token_ids
        )
        own = log_probs.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert own.tolist() == pytest.approx(completion.log_probs, abs=0.25)


def test_numbers_that_are_none_are_an_error() -> None:
    checkpoint = checkpoint_of()
    model = local_model(checkpoint)
    with torch.no_grad():
        checkpoint.model.lm_head.weight.fill_(float("nan"))
    (completion,) = model.generate([[user("A lamp?")]], Sampling(max_tokens=4))
    assert "not finite" in completion.error
    assert model.totals["errors"] == 1


def test_an_adapter_changes_the_model_as_merging_it_does(tmp_path: Path) -> None:
    import peft

    checkpoint = checkpoint_of()
    save_checkpoint(checkpoint, tmp_path / "base")
    base = load_local_model(str(tmp_path / "base"), device="cpu")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(checkpoint.model, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    unmerged = local_model(Checkpoint(adapted, TOKENIZER, "plain"))
    loaded = load_local_model(
        str(tmp_path / "base"), adapter=str(tmp_path / "adapter"), device="cpu"
    )
    chat = [user("A lamp?")]
    a, b, c = (free_reply(model, chat) for model in (base, unmerged, loaded))
    assert a.token_ids != b.token_ids
    assert b.token_ids == c.token_ids
    assert b.log_probs == pytest.approx(c.log_probs, abs=1e-3)
    hashes = loaded.provenance["weights_sha256"]
    assert sorted(hashes) == ["adapter/adapter_model.safetensors", "base/model.safetensors"]


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    made = Checkpoint(checkpoint_of().model, TOKENIZER, "plain", "published", with_example=False)
    save_checkpoint(made, tmp_path / "model")
    model = load_model(f"hf:{tmp_path / 'model'}", device="cpu", dtype="float32")
    assert isinstance(model, LocalModel)
    assert model.max_context_tokens == 2048
    record = json.loads(json.dumps(model.provenance))
    assert record["template"] == "plain"
    assert record["device"] == "cpu"
    assert len(record["weights_sha256"]["model/model.safetensors"]) == 64
    in_memory = local_model(made)
    assert len(in_memory.provenance["tensors_sha256"]) == 64
    chat = first_chat(3)
    assert free_reply(model, chat).token_ids == free_reply(in_memory, chat).token_ids


def test_a_policy_takes_the_prompts_that_the_model_knows(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.toml"
    prompt.write_text('world = "webshop"\ninstruction = "Shop."\n')
    checkpoint = Checkpoint(
        checkpoint_of().model, TOKENIZER, "plain", str(prompt), with_example=False
    )
    record = make_policy(checkpoint).provenance
    assert record["prompts"] == "file"
    assert record["with_example"] is False
    record = make_policy(checkpoint, prompts="own", with_example=True).provenance
    assert record["prompts"] == "own"
    assert record["with_example"] is True


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no checkpoint"):
        load_model(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(CorruptDataError, match=r"no config\.json"):
        load_model(f"hf:{tmp_path}")
    with pytest.raises(ValueError, match="max_batch"):
        local_model(checkpoint_of(), max_batch=0)
    with pytest.raises(ValueError, match="max_cache_gib"):
        local_model(checkpoint_of(), max_cache_gib=0)


def other_checkpoint(family: str, **shape: Any) -> Checkpoint:
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(TOKENIZER), eos_token_id=END, bos_token_id=END, pad_token_id=0, **shape
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    return Checkpoint(model, TOKENIZER, "plain")


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),  # no attention
        ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),  # masks make its positions
        (
            "Llama",
            SHAPE
            | {
                "num_hidden_layers": 1,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            },
        ),
    ],
    ids=["Mamba", "Bloom", "dynamic positions"],
)
def test_what_cannot_be_in_lockstep_says_so(family: str, shape: dict[str, Any]) -> None:
    own = {"vocab_size", "eos_token_id", "bos_token_id", "pad_token_id"}
    checkpoint = other_checkpoint(family, **{k: v for k, v in shape.items() if k not in own})
    with pytest.raises(UnsupportedModelError, match="with_cache=False"):
        local_model(checkpoint)
    model = local_model(checkpoint, with_cache=False)
    (completion,) = model.generate([[user("A lamp?")]], Sampling(max_tokens=5, stop=()))
    assert not completion.error
    assert len(completion.token_ids or []) in range(1, 6)


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
