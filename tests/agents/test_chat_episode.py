"""Episodes as conversations: the same scores and records as by `evaluate`, and what goes wrong."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import pytest

import eto_envs  # noqa: F401 (registers the ids)
from eto_agents import ChatEpisode, evaluate, run_episode
from eto_agents.models import Completion
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.protocols import OVER, call_of
from eto_agents.settings import SettingsError
from eto_envs.errors import BackendError, UnknownNameError
from tests.agents import shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP = "ETO-WebShop-v0"
MINI: dict[str, Any] = {"split": "seen", "dataset": "mini"}


def play(episode: ChatEpisode, agent: Callable[[Any], Any]) -> ChatEpisode:
    while not episode.over:
        episode.reply(agent(episode.messages))
    return episode


def comparable(trajectory: Any) -> dict[str, Any]:
    """A trajectory without what differs between equal episodes: names and times."""
    record = dataclasses.asdict(trajectory)
    for name in ("policy", "wall_s"):
        del record[name]
    for step in record["steps"]:
        del step["latency_s"]
    return record


AGENTS: Any = {"thought": shopper.reply, "tool": shopper.call}


@pytest.mark.parametrize("protocol", AGENTS)
def test_the_scores_are_those_of_evaluate(protocol: Any) -> None:
    scores = []
    for index in range(50):
        episode = ChatEpisode(WEBSHOP, index, protocol=protocol, prompts="brief", **MINI)
        scores.append(play(episode, AGENTS[protocol]).score)
    for n, expected in shopper.SCORES.items():
        if n <= 50:
            assert statistics.fmean(scores[:n]) == pytest.approx(expected, abs=5e-6)
    policy = ReActPolicy(ScriptedModel(shopper.reply), prompts="brief")
    results = evaluate(policy, WEBSHOP, ("seen",), env_args={"dataset": "mini"}, n_tasks=50)
    assert results.splits["seen"].reward.mean == pytest.approx(statistics.fmean(scores))


@pytest.mark.parametrize("with_example", [True, False])
def test_the_record_is_that_of_a_react_policy(with_example: bool) -> None:
    policy = ReActPolicy(ScriptedModel(shopper.reply), with_example=with_example)
    played = run_episode(policy, WEBSHOP, 3, seed=5, **MINI)
    episode = ChatEpisode(WEBSHOP, 3, seed=5, with_example=with_example, **MINI)
    recorded = play(episode, shopper.reply).trajectory
    assert comparable(recorded) == comparable(played)
    assert recorded.messages == episode.messages[:-1]  # the last observation follows no more
    assert recorded.messages[-1]["role"] == "assistant"


def test_calls_are_recorded() -> None:
    episode = ChatEpisode(WEBSHOP, 0, protocol="tool", **MINI)
    assert [tool["function"]["name"] for tool in episode.tools] == ["act"]
    recorded = play(episode, shopper.call).trajectory
    assert recorded.status == "completed"
    said = [m for m in recorded.messages if "tool_calls" in m and m["content"] == "Go on."]
    actions = [step.action for step in recorded.steps]
    assert [m["tool_calls"][0]["function"]["arguments"] for m in said] == [
        call_of(action, "")["function"]["arguments"] for action in actions
    ]
    assert all(step.thought == "Go on." for step in recorded.steps)
    assert type(recorded).from_json(recorded.to_json()) == recorded


@pytest.mark.parametrize("env_id", [WEBSHOP, "ETO-ALFWorld-v0"])
@pytest.mark.parametrize("protocol", ["thought", "tool"])
def test_the_expert_scores_1(env_id: str, protocol: Any) -> None:
    for index in range(3):
        episode = ChatEpisode(env_id, index, protocol=protocol, reveal=("expert_action",), **MINI)
        while not episode.over:
            action = episode.info["expert_action"]
            is_text = protocol == "thought"
            episode.reply(
                f"Action: {action}" if is_text else {"tool_calls": [call_of(action, "1")]}
            )
        assert episode.score == 1.0
        assert episode.trajectory.success


def test_after_the_end_it_says_so() -> None:
    episode = ChatEpisode(CORRIDOR, 0, prompts="brief", world="webshop")
    last = episode.reply("Action: go")
    while not last.over:
        last = episode.reply("Action: go")
    before = episode.trajectory
    for reply in ("Action: go", "", {"content": None}):
        turn = episode.reply(reply)
        assert (turn.reward, turn.over) == (0.0, True)
        assert turn.messages == [{"role": "user", "content": OVER}]
    turn = episode.reply({"tool_calls": [call_of("go", "a"), call_of("go", "b")]})
    assert [(m["content"], m["tool_call_id"]) for m in turn.messages] == [(OVER, "a"), (OVER, "b")]
    assert episode.trajectory == before
    episode.fail("too late")
    episode.close()
    assert episode.trajectory == before


def test_rewards_sum_to_the_score() -> None:
    episode = ChatEpisode(WEBSHOP, 1, **MINI)
    total = 0.0
    while not episode.over:
        total += episode.reply(shopper.reply(episode.messages)).reward
    assert total == episode.score > 0


def test_a_reply_without_an_action_costs_a_step() -> None:
    episode = ChatEpisode(WEBSHOP, 0, max_steps=2, **MINI)
    turn = episode.reply("I would rather not.")
    assert "Invalid format" in turn.messages[0]["content"]
    assert turn.info["n_steps"] == 1
    assert not turn.info["is_valid_action"]
    turn = episode.reply("")
    assert turn.over
    assert episode.trajectory.status == "truncated"
    assert episode.trajectory.steps[0].usage["format_errors"] == 1.0


def test_an_episode_that_is_not_over_is_cancelled() -> None:
    with ChatEpisode(WEBSHOP, 0, **MINI) as episode:
        assert episode.trajectory.status == "cancelled"
        assert episode.trajectory.messages == []
        episode.reply("Action: search[lamp]")
        assert not episode.over
        assert episode.trajectory.messages[-1]["content"] == "Action: search[lamp]"
    assert episode.over
    assert episode.trajectory.status == "cancelled"
    assert episode.reply("Action: search[lamp]").messages[0]["content"] == OVER


def test_an_agent_that_fails() -> None:
    episode = ChatEpisode(WEBSHOP, 0, **MINI)
    episode.fail("the server is gone")
    assert (episode.trajectory.status, episode.trajectory.error) == (
        "agent_error",
        "the server is gone",
    )
    episode = ChatEpisode(WEBSHOP, 0, **MINI)
    turn = episode.reply("Action: " + "x" * 70_000)
    assert turn.over
    assert episode.trajectory.status == "agent_error"
    assert "70,000 bytes" in episode.trajectory.error
    episode = ChatEpisode(WEBSHOP, 0, **MINI)
    assert episode.reply(Completion(error="status 500")).over
    assert episode.trajectory.error == "status 500"


def test_a_world_that_fails_has_no_score() -> None:
    episode = ChatEpisode(BROKEN, 0, prompts="brief", world="webshop")
    with pytest.raises(BackendError, match="the world ended"):
        episode.reply("Action: go")
    assert episode.over
    assert episode.trajectory.status == "env_error"
    assert "the world ended" in episode.trajectory.error
    assert episode.reply("Action: go").messages[0]["content"] == OVER


def test_a_completion_leaves_its_tokens_in_the_record() -> None:
    episode = ChatEpisode(WEBSHOP, 0, **MINI)
    episode.reply(
        Completion("Action: x", token_ids=[1, 2], log_probs=[-0.5, -1.0], usage={"cost_usd": 2.0})
    )
    [step] = episode.trajectory.steps
    assert (step.token_ids, step.log_probs) == ([1, 2], [-0.5, -1.0])
    assert step.usage["cost_usd"] == 2.0


class Dumpable:
    """Like the objects of OpenAI's client."""

    def model_dump(self) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": [{"type": "text", "text": "Go on."}],
            "refusal": None,
            "tool_calls": [{"function": {"name": "act", "arguments": {"action": "search[x]"}}}],
        }


def test_other_forms_of_messages() -> None:
    episode = ChatEpisode(WEBSHOP, 0, protocol="tool", **MINI)
    turn = episode.reply(Dumpable())  # type: ignore[arg-type]
    assert episode.trajectory.steps[0].action == "search[x]"
    assert turn.messages[0]["tool_call_id"] == "call-1"
    for wrong in (3, None, ["x"], {"content": 3}, {"tool_calls": [{"id": "x"}]}, {"tool_calls": 3}):
        with pytest.raises(TypeError):
            episode.reply(wrong)  # type: ignore[arg-type]
    assert not episode.over


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "no-such"}, UnknownNameError, "no-such"),
        ({"protocol": "json"}, UnknownNameError, "protocol 'json'"),
        ({"prompts": "nowhere.toml"}, Exception, "nowhere.toml"),
        ({"world": "chess"}, UnknownNameError, "chess"),
        ({"split": "nowhere"}, UnknownNameError, "nowhere"),
    ],
)
def test_wrong_arguments(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ChatEpisode(**{"env_id": WEBSHOP, "task": 0, **MINI, **arguments})


def test_a_prompt_that_asks_for_text_does_not_go_with_calls(tmp_path: Any) -> None:
    prompt = tmp_path / "prompt.toml"
    prompt.write_text('world = "webshop"\ninstruction = "Write Action: and a command."\n')
    with pytest.raises(SettingsError, match="reply_format"):
        ChatEpisode(WEBSHOP, 0, protocol="tool", prompts=str(prompt), **MINI)
    with pytest.raises(SettingsError, match="reply_format"):
        ReActPolicy(ScriptedModel(shopper.reply), protocol="tool", prompts=str(prompt))
