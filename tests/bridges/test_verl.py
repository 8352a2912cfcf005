"""verl's agent loop: the scores of `evaluate`, and the tokens of our renderer."""

from __future__ import annotations

import asyncio
import functools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.rollout.replica import TokenOutput

from eto_agents import ChatEpisode
from eto_agents.bridges.rows import task_rows
from eto_agents.bridges.verl import WorldAgentLoop
from eto_agents.models.tiny import train_tokenizer
from eto_agents.react.chat import encode, find_template
from eto_envs import task_sets
from eto_envs.errors import BackendError
from tests import test_docs
from tests.agents import scientist, shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP = "ETO-WebShop-v0"
OF_TOYS: dict[str, Any] = {"prompts": "brief", "world": "webshop"}
LOG_PROB = -0.25
USER = {"qwen2.5": "<|im_start|>user\n", "qwen3": "<|im_start|>user\n", "plain": "<|user|>"}
USER["llama-3"] = "<|start_header_id|>user<|end_header_id|>\n\n"


@functools.cache
def tokenizer(template: str) -> Any:
    made = train_tokenizer(["Thought: go on.\nAction: search[lamp]"], template=template)
    made.chat_template = find_template(template).source
    return made


class Server:
    """What a loop asks for tokens: answers the last message, and records what it was asked."""

    def __init__(self, template: str, agent: Any, has_log_probs: bool = True) -> None:
        self._template, self._agent = template, agent
        self._has_log_probs = has_log_probs
        self.requests: list[tuple[str, list[int]]] = []

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: Any
    ) -> TokenOutput:
        assert sampling_params == {"temperature": 1.0}
        self.requests.append((request_id, list(prompt_ids)))
        text = tokenizer(self._template).decode(prompt_ids)
        end = find_template(self._template).end
        page = text.rpartition(USER[self._template])[2].partition(end)[0]
        reply = self._agent([{"role": "user", "content": page}]) + end
        ids = tokenizer(self._template)(reply, add_special_tokens=False)["input_ids"]
        n = len(self.requests)
        return TokenOutput(
            token_ids=ids,
            log_probs=[LOG_PROB] * len(ids) if self._has_log_probs else None,
            num_preempted=1,
            routed_experts=np.full((len(prompt_ids) + len(ids), 2, 1), n),
            extra_fields={"min_global_steps": n, "max_global_steps": n},
        )


def loop_of(
    server: Any, template: str, model_type: str, length: int = 8192, **rollout: Any
) -> WorldAgentLoop:
    sizes = {"prompt_length": 4096, "response_length": length}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {**sizes, **rollout}}})
    return WorldAgentLoop(
        DictConfigWrap(config),
        server,
        tokenizer(template),
        None,
        object,
        DictConfigWrap(OmegaConf.create({})),
        hf_model_type=model_type,
        tools=ToolListWrap([]),
    )


def play(
    rows: list[dict[str, Any]],
    agent: Any = shopper.reply,
    template: str = "qwen2.5",
    model_type: str = "qwen2",
    length: int = 8192,
) -> tuple[list[Any], Server]:
    server = Server(template, agent)

    async def gather() -> list[Any]:
        loop = loop_of(server, template, model_type, length)
        sampling = {"temperature": 1.0}
        return await asyncio.gather(*(loop.run(sampling, **row) for row in rows))

    return asyncio.run(gather()), server


def brief_rows(n: int) -> list[dict[str, Any]]:
    return task_rows(WEBSHOP, split="seen", dataset="mini", prompts="brief")[:n]


def test_the_scores_are_those_of_evaluate() -> None:
    outputs, _ = play(brief_rows(50))
    scores = [output.reward_score for output in outputs]
    assert statistics.fmean(scores[:20]) == pytest.approx(shopper.SCORES[20], abs=5e-6)
    assert statistics.fmean(scores) == pytest.approx(shopper.SCORES[50], abs=5e-6)
    for output in outputs:
        fields = output.extra_fields
        assert sum(fields["turn_scores"]) == pytest.approx(output.reward_score)
        assert fields["reward_extra_info"]["score"] == output.reward_score
        assert fields["reward_extra_info"]["n_steps"] == len(fields["turn_scores"])
        assert output.num_turns == 2 * len(fields["turn_scores"])


@pytest.mark.parametrize(
    ("template", "model_type"),
    [("qwen2.5", "qwen2"), ("qwen3", "qwen3"), ("llama-3", "llama"), ("plain", "llama")],
)
def test_tokens_are_those_of_our_renderer(template: str, model_type: str) -> None:
    [output], server = play(brief_rows(1), template=template, model_type=model_type)
    ids = output.prompt_ids + output.response_ids
    mask = [0] * len(output.prompt_ids) + output.response_mask
    replies = [ids[start:end] for start, end in runs_of_ones(mask)]

    episode = ChatEpisode(WEBSHOP, 0, prompts="brief", split="seen", dataset="mini")
    n_prompt = len(episode.messages)
    while not episode.over:
        episode.reply(shopper.reply(episode.messages))
    chat = episode.messages[:-1]  # no reply follows the last observation
    end = find_template(template).end
    assert [tokenizer(template).decode(reply) for reply in replies] == [
        message["content"] + end for message in chat[n_prompt::2]
    ]
    sampled = dict(zip(range(n_prompt, len(chat), 2), replies, strict=True))
    ours = encode(chat, tokenizer(template), template, first_trained=n_prompt, sampled=sampled)
    assert ours.ids[: len(ids)] == ids
    assert ours.mask[: len(ids)] == mask

    assert len(output.response_ids) == len(output.response_mask)
    assert output.response_logprobs == [LOG_PROB * m for m in output.response_mask]
    assert len({request for request, _ in server.requests}) == 1
    assert server.requests[-1][1] == ids[: -len(replies[-1])]


@pytest.mark.java
def test_the_scores_in_scienceworld() -> None:
    for task in scientist.TASKS:
        row = {"env_id": scientist.SCIENCEWORLD, "task": task, "options": scientist.SEEN}
        [output], _ = play([row], scientist.replier_of(task))
        assert output.reward_score == pytest.approx(scientist.score_of(task))


def runs_of_ones(mask: list[int]) -> list[tuple[int, int]]:
    """Where each run begins and ends."""
    edges = np.flatnonzero(np.diff([0, *mask, 0]))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def test_what_verl_counts() -> None:
    [output], server = play(brief_rows(1))
    n = len(server.requests)
    assert output.metrics.num_preempted == n
    assert output.metrics.generate_sequences > 0 < output.metrics.tool_calls
    fields = output.extra_fields
    assert (fields["min_global_steps"], fields["max_global_steps"]) == (1, n)
    assert output.routed_experts.shape == (len(output.prompt_ids) + len(output.response_ids), 2, 1)
    assert output.routed_experts[0, 0, 0] == n  # the last, which covers all tokens


def test_without_log_probs() -> None:
    server = Server("qwen2.5", shopper.reply, has_log_probs=False)

    async def run() -> Any:
        loop = loop_of(server, "qwen2.5", "qwen2", full_determinism=True)
        return await loop.run({"temperature": 1.0}, priority=np.int64(7), **brief_rows(1)[0])

    output = asyncio.run(run())
    assert output.response_logprobs is None
    assert {request for request, _ in server.requests} == {"det-7"}


@pytest.mark.parametrize("n_kept", [1, 2])
def test_an_episode_is_cut_off_at_the_response_s_length(n_kept: int) -> None:
    [whole], _ = play(brief_rows(1))
    runs = runs_of_ones(whole.response_mask)
    # In the middle of a reply, which is then not carried out.
    [output], _ = play(brief_rows(1), length=runs[n_kept][1] - 1)
    assert output.response_ids == whole.response_ids[: runs[n_kept][1] - 1]
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs)
    assert output.response_mask[-1] == 1
    assert len(output.extra_fields["turn_scores"]) == n_kept
    assert output.reward_score == output.extra_fields["reward_extra_info"]["score"] == 0.0
    # In the middle of an observation, which is then left out.
    [output], _ = play(brief_rows(1), length=runs[n_kept][0] - 1)
    assert output.response_ids == whole.response_ids[: runs[n_kept - 1][1]]
    assert len(output.extra_fields["turn_scores"]) == n_kept


def test_the_score_so_far_counts() -> None:
    row = {"env_id": CORRIDOR, "task": np.int64(0), "options": {"n": 3, **OF_TOYS}}
    [whole], _ = play([row], agent=lambda _: "Action: east")
    assert whole.reward_score == 1.0
    [output], _ = play([row], agent=lambda _: "Action: east", length=len(whole.response_ids) - 1)
    assert output.reward_score == 0.5


def test_what_goes_wrong_raises() -> None:
    with pytest.raises(BackendError, match="the world ended"):
        play([{"env_id": BROKEN, "task": 0, "options": OF_TOYS}], agent=lambda _: "Action: go")
    with pytest.raises(KeyError, match="env_id"):
        play([{"task": 0}])


def test_the_page_s_data_set(tmp_path: Path) -> None:
    test_docs.test_examples_run(test_docs.ROOT / "docs/bridges/verl.md", tmp_path)
    config = OmegaConf.create({"cache_dir": str(tmp_path), "filter_overlong_prompts_workers": None})
    data = RLHFDataset(str(tmp_path / "train.parquet"), tokenizer("qwen2.5"), config)
    assert len(data) == len(task_sets(WEBSHOP, "mini")["train"])
    batch = collate_fn([data[0], data[1]])
    rows = [{name: values[i] for name, values in batch.items()} for i in range(2)]
    assert {row.pop("agent_name") for row in rows} == {"eto"}  # by which verl finds the loop
    outputs, _ = play(rows)
    assert all(output.extra_fields["turn_scores"] for output in outputs)
