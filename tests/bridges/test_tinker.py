"""Tinker's environments: the scores of `evaluate` through the cookbook's own rollouts."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest
from tinker_cookbook.completers import TokenCompleter, TokensWithLogprobs
from tinker_cookbook.renderers import get_renderer
from tinker_cookbook.rl.rollouts import do_group_rollout
from tinker_cookbook.tokenizer_utils import register_tokenizer

from eto_agents.bridges.tinker import WorldGroupBuilder, WorldMessageEnv
from eto_envs import task_sets
from eto_envs.errors import BackendError, UnknownNameError
from tests import test_docs
from tests.agents import scientist, shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP = "ETO-WebShop-v0"
MINI: dict[str, Any] = {"split": "seen", "dataset": "mini", "prompts": "brief"}
OF_TOYS: dict[str, Any] = {"prompts": "brief", "world": "webshop"}


class Bytes:
    """A tokenizer whose tokens are bytes."""

    name_or_path = "bytes"
    bos_token = ""
    eos_token_id = None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode()


register_tokenizer("bytes", Bytes)


class Shopper(TokenCompleter):
    """The scripted agent as a policy of the cookbook."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    async def __call__(self, model_input: Any, stop: Any, **_: Any) -> TokensWithLogprobs:
        self.prompts.append(Bytes().decode(model_input.to_ints()))
        page = self.prompts[-1].rpartition("User: ")[2]
        ids = Bytes().encode(" " + shopper.reply([{"content": page}]) + "\n\nUser:")
        return TokensWithLogprobs(ids, [-0.5] * len(ids))


def renderer() -> Any:
    return get_renderer("role_colon", Bytes())


def test_the_scores_are_those_of_evaluate() -> None:
    async def play() -> list[float]:
        scores = []
        for task in range(20):
            builder = WorldGroupBuilder(WEBSHOP, task, renderer(), 1, MINI)
            group = await do_group_rollout(pickle.loads(pickle.dumps(builder)), Shopper())
            [score] = group.get_total_rewards()
            assert score == pytest.approx(group.trajectories_G[0].transitions[-1].metrics["score"])
            scores.append(score)
        return scores

    scores = asyncio.run(play())
    assert statistics.fmean(scores[:5]) == pytest.approx(shopper.SCORES[5], abs=5e-6)
    assert statistics.fmean(scores) == pytest.approx(shopper.SCORES[20], abs=5e-6)


@pytest.mark.java
def test_the_scores_in_scienceworld() -> None:
    async def play(task: str) -> float:
        env = WorldMessageEnv(scientist.SCIENCEWORLD, task, **scientist.SEEN)
        reply, total, done = scientist.replier_of(task), 0.0, False
        await env.initial_observation()
        while not done:
            message: Any = {"role": "assistant", "content": reply("")}
            result = await env.step(message)
            total, done = total + result.reward, result.episode_done
        env.close()
        return total

    for task in scientist.TASKS:
        assert asyncio.run(play(task)) == pytest.approx(scientist.score_of(task))


def test_each_prompt_continues_the_last_one() -> None:
    agent = Shopper()
    builder = WorldGroupBuilder(WEBSHOP, 3, renderer(), 1, MINI)
    asyncio.run(do_group_rollout(builder, agent))
    assert len(agent.prompts) > 2
    assert all(after.startswith(before) for before, after in itertools.pairwise(agent.prompts))


def test_episodes_of_a_group_are_released() -> None:
    builder = WorldGroupBuilder(WEBSHOP, 3, renderer(), 3, MINI)
    group = asyncio.run(do_group_rollout(builder, Shopper()))
    assert len(group.get_total_rewards()) == 3
    assert builder.logging_tags() == [WEBSHOP]
    assert builder._envs == []


def test_50_episodes_of_messages() -> None:
    async def play(task: int) -> float:
        env = WorldMessageEnv(WEBSHOP, task, **MINI)
        chat: Any = await env.initial_observation()
        total, done = 0.0, False
        while not done:
            reply: Any = {"role": "assistant", "content": shopper.reply(chat)}
            result = await env.step(reply)
            chat = result.next_messages
            total, done = total + result.reward, result.episode_done
        env.close()
        assert total == pytest.approx(result.metrics["score"])
        return total

    async def play_all() -> list[float]:
        return await asyncio.gather(*map(play, range(50)))

    assert statistics.fmean(asyncio.run(play_all())) == pytest.approx(shopper.SCORES[50], abs=5e-6)


def test_thoughts_of_a_reasoning_model_stay_in_the_conversation() -> None:
    async def play() -> None:
        env = WorldMessageEnv(CORRIDOR, "room3", **OF_TOYS)
        await env.initial_observation()
        parts = [
            {"type": "thinking", "thinking": "Action: west"},
            {"type": "text", "text": "Action: east"},
        ]
        reply: Any = {"role": "assistant", "content": parts}
        result = await env.step(reply)
        assert result.next_messages[-2] == reply
        assert "room 1" in result.next_messages[-1]["content"]
        assert result.metrics == {"score": pytest.approx(1 / 3), "success": 0.0, "invalid": 0.0}

    asyncio.run(play())


def test_what_goes_wrong_raises() -> None:
    reply: Any = {"role": "assistant", "content": "Action: go"}

    async def play(env: WorldMessageEnv) -> None:
        await env.initial_observation()
        await env.step(reply)

    with pytest.raises(BackendError, match="the world ended"):
        asyncio.run(play(WorldMessageEnv(BROKEN, 0, **OF_TOYS)))
    with pytest.raises(UnknownNameError, match="no-such"):
        asyncio.run(play(WorldMessageEnv(WEBSHOP, "no-such", **MINI)))
    with pytest.raises(RuntimeError, match="initial_observation"):
        asyncio.run(WorldMessageEnv(WEBSHOP, 0).step(reply))
    builder = WorldGroupBuilder(BROKEN, 0, renderer(), 2, OF_TOYS)
    with pytest.raises(BackendError, match="the world ended"):
        asyncio.run(do_group_rollout(builder, Shopper()))
    assert builder._envs == []


def test_the_page_s_data_set(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(test_docs.examples(test_docs.ROOT / "docs/bridges/tinker.md"))
    builder = runpy.run_path(str(script))["WorldsBuilder"](
        model_name="bytes", renderer_name="role_colon", batch_size=3, group_size=2
    )
    data, _ = asyncio.run(builder())
    batches = [data.get_batch(index) for index in range(len(data))]
    tasks = task_sets(WEBSHOP, "mini")["train"].ids
    assert [group.task for batch in batches for group in batch] == list(tasks[: 3 * len(data)])
    group = asyncio.run(do_group_rollout(batches[0][0], Shopper()))
    assert len(group.get_total_rewards()) == 2
