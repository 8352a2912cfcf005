"""The ReAct agent end to end in WebShop's mini dataset, with a scripted model and a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import eto_envs  # noqa: F401 (registers the ids)
from eto_agents import TrajectoryStore, evaluate, load_policy, run_episode
from eto_agents.best_of_n import BestOfN
from eto_agents.cli import main
from eto_agents.models import Completion, Sampling
from eto_agents.models.scripted import ScriptedModel
from eto_agents.policies.react import ReActPolicy
from eto_agents.policy import Policy, as_policy
from eto_agents.react.context import estimate_tokens, transcript
from eto_agents.react.prompts import load_prompts
from eto_agents.react.tools import ACT
from eto_agents.rollout import AgentFailedError
from eto_agents.settings import SettingsError
from eto_agents.trajectory import Message, Trajectory
from eto_agents.worlds import find_world
from eto_envs.errors import DataNotFoundError, UnknownNameError
from tests.toy import CORRIDOR

WEBSHOP = "ETO-WebShop-v0"
MINI = {"dataset": "mini"}
PROMPT = load_prompts()["webshop"]
HEAD = PROMPT.head(with_example=True)
BAD = "I would like the first one, please."


def own_turns(chat: Sequence[Message]) -> list[str]:
    """The agent's replies since the task was given."""
    return [m["content"] for m in chat[len(HEAD) + 1 :] if m["role"] == "assistant"]


def goal_of(chat: Sequence[Message]) -> str:
    return chat[len(HEAD)]["content"].split("Instruction: [SEP] ")[1].split(" [SEP]")[0]


@pytest.fixture(scope="module")
def expert_actions() -> dict[str, list[str]]:
    """The expert's actions by goal, for the first tasks of each split."""
    actions = {}
    for split in ("seen", "unseen"):
        env = gym.make(WEBSHOP, split=split, reveal=("expert_action",), **MINI)
        for task in env.unwrapped.tasks[:6]:  # type: ignore[attr-defined]
            _, info = env.reset(options={"task": task.id})
            actions[task.goal] = []
            ended = False
            while not ended:
                action = info["expert_action"]
                actions[task.goal].append(action)
                _, _, terminated, truncated, info = env.step(action)
                ended = terminated or truncated
    return actions


def play(policy: Any, out: Path | None = None, **kwargs: Any) -> Any:
    return evaluate(policy, WEBSHOP, env_args=MINI, n_tasks=6, out=out, **kwargs)


def test_the_experts_actions_in_react_format_score_1(
    expert_actions: dict[str, list[str]], tmp_path: Path
) -> None:
    def script(chat: Sequence[Message]) -> str:
        n = len(own_turns(chat))
        return f"Thought: Step {n}.\nAction: {expert_actions[goal_of(chat)][n]}"

    model = ScriptedModel(script)
    results = play(ReActPolicy(model), tmp_path, n_envs=4)
    for split in ("seen", "unseen"):
        assert results.splits[split].reward.mean == 1.0
        assert results.splits[split].invalid_actions == 0.0
        assert results.splits[split].statuses == {"completed": 6}
    provenance = results.provenance["policy"]
    assert provenance["model"] == "scripted"
    assert provenance["prompt_sha256"]["webshop"] == PROMPT.sha256
    assert provenance["sampling"] == Sampling().record()
    step = next(iter(TrajectoryStore(tmp_path / "episodes.jsonl").read())).steps[1]
    assert step.thought == "Step 1."
    assert step.text == f"Thought: Step 1.\nAction: {step.action}"


def test_the_model_reads_the_transcript(expert_actions: dict[str, list[str]]) -> None:
    def script(chat: Sequence[Message]) -> str:
        n = len(own_turns(chat))
        return BAD if n == 1 else f"Action: {expert_actions[goal_of(chat)][n - (n > 1)]}"

    model = ScriptedModel(script)
    episode = run_episode(ReActPolicy(model), WEBSHOP, 0, split="seen", **MINI)
    assert episode.score == 1.0
    whole = transcript(PROMPT, episode.initial_observation, episode.steps)
    for n, request in enumerate(model.requests):
        assert request == whole[: len(HEAD) + 1 + 2 * n]
    assert model.requests[2][-1]["content"] == find_world("webshop").format.error
    bad = episode.steps[1]
    assert (bad.action, bad.text, bad.is_valid) == ("", BAD, False)
    assert bad.observation == episode.steps[0].observation
    assert [s.usage.get("format_errors", 0) for s in episode.steps[:3]] == [0, 1, 0]


def test_a_trajectory_has_the_conversation_that_the_agent_had() -> None:
    chats: list[Sequence[Message]] = []

    def script(chat: Sequence[Message]) -> str:
        chats.append(list(chat))
        return [BAD, "Action: search[red shoes]"][len(chats) % 2]

    for policy in (
        ReActPolicy(ScriptedModel(script)),
        BestOfN(ReActPolicy(ScriptedModel(script)), 1),
    ):
        chats.clear()
        played = run_episode(policy, WEBSHOP, 0, split="seen", max_steps=3, **MINI)
        said = {"role": "assistant", "content": played.steps[-1].text}
        assert played.messages == [*chats[-1], said]
        assert played.messages[0] == HEAD[0]
        assert len(played.messages) == len(HEAD) + 2 * 3


def test_dropped_turns_are_in_the_recorded_conversation() -> None:
    policy = ReActPolicy(ScriptedModel(lambda _: "Action: search[x]"), max_context_tokens=1600)
    played = run_episode(policy, WEBSHOP, 0, split="seen", max_steps=6, **MINI)
    assert played.steps[-1].usage["dropped_turns"] > 0
    assert len(played.messages) == len(HEAD) + 2 * 6


def test_calls_and_results_are_recorded() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "act", "arguments": "{}"}}
    chat = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "A page.", "tool_call_id": "1"},
    ]

    class Calling:
        def reset(self, task: Any, seed: int) -> None: ...

        def act(self, observation: str, info: Any) -> str:
            return "search[x]"

    policy = as_policy(Calling())
    policy.conversation = lambda slot: [{**message, "more": 1} for message in chat]  # type: ignore[attr-defined]
    played = run_episode(policy, WEBSHOP, 0, split="seen", max_steps=1, **MINI)
    assert played.messages == chat
    assert Trajectory.from_json(played.to_json()).messages == chat


def test_a_malformed_conversation_is_not_recorded(caplog: Any) -> None:
    class Odd:
        def reset(self, task: Any, seed: int) -> None: ...

        def act(self, observation: str, info: Any) -> str:
            return "search[x]"

    odd = as_policy(Odd())
    odd.conversation = lambda slot: [slot]  # type: ignore[attr-defined]
    played = run_episode(odd, WEBSHOP, 0, split="seen", max_steps=1, **MINI)
    assert (played.status, played.messages) == ("truncated", [])
    assert "conversation cannot be recorded" in caplog.text


def test_stop_texts_end_replies_of_every_model() -> None:
    """A model that ignores them would answer its own action with an observation."""

    def script(chat: Sequence[Message]) -> Completion:
        # Without the texts of the tokens it is not known which of them lie before the cut.
        ids = [1, 2, 3]
        return Completion("Action: search[a]\nObservation: x", ids, [-0.1] * 3, {}, "length")

    episode = run_episode(ReActPolicy(ScriptedModel(script)), WEBSHOP, 0, split="seen", **MINI)
    step = episode.steps[0]
    assert (step.action, step.text, step.is_valid) == ("search[a]", "Action: search[a]", True)
    assert (step.token_ids, step.log_probs) == (None, None)
    assert "cut_off" not in step.usage
    assert "Observation: x" not in json.dumps(episode.messages)


def test_the_experts_actions_from_a_server_that_ignores_stops_score_1(
    expert_actions: dict[str, list[str]],
) -> None:
    pytest.importorskip("openai")
    from tests.agents.models.test_openai import Answer, Server, reply

    def answer(body: dict[str, Any], n: int) -> Answer:
        chat = body["messages"]
        action = expert_actions[goal_of(chat)][len(own_turns(chat))]
        return reply(f"Action: {action}\nObservation: I made this up.\nAction: click[buy now]")

    server = Server()
    server.answer = answer
    try:
        results = play(load_policy("react", model="openai:m", base_url=server.url, omit=["stop"]))
    finally:
        server.close()
    assert [split.reward.mean for split in results.splits.values()] == [1.0, 1.0]


def test_reasoning_stays_in_the_conversation_and_is_not_parsed() -> None:
    text = "<think>Action: search[a]?\nObservation: none.</think>Thought: b.\nAction: search[b]"
    for strip, action in ((True, "search[b]"), (False, "search[a]?\nObservation: none.</think>")):
        policy = ReActPolicy(ScriptedModel(lambda _: text), strip_reasoning=strip)
        episode = run_episode(policy, WEBSHOP, 0, split="seen", max_steps=2, **MINI)
        assert episode.steps[0].action.startswith(action)
        assert episode.steps[0].text == text
        assert episode.messages[-1]["content"] == text
        assert ("strip_reasoning" in policy.provenance) is not strip
        # The transcript follows the rule that the agent followed.
        chat = transcript(PROMPT, episode.initial_observation, episode.steps)
        assert chat[: len(episode.messages)] == episode.messages


def test_a_transcript_of_an_agent_whose_thinking_is_parsed() -> None:
    policy = ReActPolicy(ScriptedModel(lambda _: "<think>Action: search[a]"), strip_reasoning=False)
    episode = run_episode(policy, WEBSHOP, 0, split="seen", max_steps=2, **MINI)
    assert episode.steps[0].action == "search[a]"
    chat = transcript(PROMPT, episode.initial_observation, episode.steps)
    assert chat[: len(episode.messages)] == episode.messages


def test_malformed_replies_only_cost_steps() -> None:
    results = play(ReActPolicy(ScriptedModel(lambda chat: BAD)))
    for split in results.splits.values():
        assert split.statuses == {"truncated": 6}
        assert (split.reward.mean, split.steps, split.invalid_actions) == (0.0, 10.0, 1.0)


def test_an_action_without_the_action_label_is_not_executed() -> None:
    model = ScriptedModel(["Action: search[a]", "search[b]", *["click[buy now]"] * 8])
    episode = run_episode(ReActPolicy(model), WEBSHOP, 0, split="seen", **MINI)
    assert episode.status == "truncated"
    assert [step.is_valid for step in episode.steps] == [True] + [False] * 9
    assert len({step.observation for step in episode.steps}) == 1


def test_a_failed_request_ends_its_episode_as_agent_error() -> None:
    def script(chat: Sequence[Message]) -> str | Completion:
        if len(own_turns(chat)) == 2 and len(goal_of(chat)) % 2:
            return Completion(error="server away", usage={"prompt_tokens": 3.0})
        return "Action: search[a]"

    results = play(ReActPolicy(ScriptedModel(script)), n_envs=5)
    n_failed = sum(split.statuses.get("agent_error", 0) for split in results.splits.values())
    n_whole = sum(split.statuses.get("truncated", 0) for split in results.splits.values())
    assert n_failed + n_whole == 12
    assert 0 < n_failed < 12
    assert sum(split.n_episodes for split in results.splits.values()) == n_whole


def test_an_unreachable_server_stops_the_run(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    policy = load_policy("react", model="openai:m", base_url="http://127.0.0.1:9/v1", n_retries=0)
    with pytest.raises(AgentFailedError, match="APIConnectionError"):
        evaluate(policy, WEBSHOP, ("seen",), env_args=MINI, n_tasks=3, out=tmp_path)
    assert list(TrajectoryStore(tmp_path / "episodes.jsonl").read()) == []


def test_a_recorded_run_is_repeated_without_the_server(
    expert_actions: dict[str, list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("openai")
    from tests.agents.models.test_openai import Answer, Server, reply

    def answer(body: dict[str, Any], n: int) -> Answer:
        chat = body["messages"]
        return reply(f"Action: {expert_actions[goal_of(chat)][len(own_turns(chat))]}")

    server = Server()
    server.answer = answer
    arguments = {"model": "openai:m", "recordings": str(tmp_path / "replies.jsonl")}
    made = play(load_policy("react", base_url=server.url, **arguments))
    server.close()
    again = play(load_policy("react", offline=True, **arguments))
    assert made.provenance["policy"] == again.provenance["policy"]
    for split, figures in made.splits.items():
        assert figures.reward.mean == again.splits[split].reward.mean == 1.0
        assert figures.tokens == again.splits[split].tokens > 0
        assert figures.tasks_sha256 == again.splits[split].tasks_sha256


def test_results_do_not_depend_on_the_batch() -> None:
    class Drawn:
        """Replies with its seed."""

        name = "drawn"

        def generate(
            self, conversations: Sequence[Any], sampling: Sampling, seeds: Any = None
        ) -> list[Completion]:
            return [Completion(f"Action: search[{seed}]") for seed in seeds]

    def actions(n_envs: int, tmp: list[list[str]]) -> list[list[str]]:
        evaluate(
            ReActPolicy(Drawn(), temperature=1.0),
            WEBSHOP,
            ("seen",),
            env_args=MINI,
            n_tasks=5,
            seeds=(0, 1),
            n_envs=n_envs,
            progress=lambda p: p.trajectory and tmp.append([s.action for s in p.trajectory.steps]),
        )
        return sorted(tmp)

    alone = actions(1, [])
    assert alone == actions(4, [])
    assert len({action for episode in alone for action in episode}) == 5 * 2 * 10


def test_dropped_turns_of_long_conversations_are_reported() -> None:
    model = ScriptedModel(lambda chat: "Action: search[shoe]")
    policy = ReActPolicy(model, max_context_tokens=3000, max_tokens=100)
    episode = run_episode(policy, WEBSHOP, 0, split="seen", **MINI)
    dropped = [int(step.usage["dropped_turns"]) for step in episode.steps]
    assert dropped[0] == 0
    assert dropped[-1] > 0
    assert dropped == sorted(dropped)
    for request in model.requests:
        assert goal_of(request) == episode.goal
        assert request[0] == HEAD[0]
    assert len(own_turns(model.requests[-1])) == 9 - dropped[-1]
    tight = ReActPolicy(model, max_context_tokens=300, max_tokens=100)
    error = run_episode(tight, WEBSHOP, 0, split="seen", **MINI)
    assert error.status == "agent_error"
    assert "there is room for 200 only" in error.error


def test_a_cut_off_reply_is_reported() -> None:
    model = ScriptedModel(lambda chat: Completion("Action: sear", finish_reason="length"))
    episode = run_episode(ReActPolicy(model), WEBSHOP, 0, split="seen", **MINI)
    assert all(step.usage["cut_off"] == 1.0 for step in episode.steps)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps(["Action: search[shoe]"] * 20), encoding="utf-8")
    arguments = ["eval", "--env", WEBSHOP, "--policy", "react", "--dataset", "mini"]
    arguments += ["--policy-args", f"model=scripted:{script}", "max_tokens=64"]
    arguments += ["--splits", "seen", "--n-tasks", "2", "--out", str(tmp_path / "run"), "--quiet"]
    main(arguments)
    assert "react (scripted)" in capsys.readouterr().out
    record = json.loads((tmp_path / "run/results.json").read_text())
    assert record["policy"] == "react (scripted)"
    assert record["provenance"]["policy"]["sampling"]["max_tokens"] == 64
    assert record["splits"]["seen"]["statuses"] == {"truncated": 2}


def test_other_worlds_need_a_prompt(tmp_path: Path) -> None:
    model = ScriptedModel(lambda chat: "Action: east")
    path = tmp_path / "corridor.toml"
    path.write_text('world = "corridor"\ninstruction = "Go east."\n', encoding="utf-8")
    policy = ReActPolicy(model, prompts=str(path), world="corridor")
    assert evaluate(policy, CORRIDOR, ("seen",)).splits["seen"].reward.mean == 1.0
    assert model.requests[0][0]["content"] == "Go east."
    without = evaluate(ReActPolicy(model), CORRIDOR, ("seen",)).splits["seen"]
    assert set(without.statuses) == {"agent_error"}


def test_invalid_arguments() -> None:
    model = ScriptedModel([])
    assert isinstance(ReActPolicy(model), Policy)
    with pytest.raises(UnknownNameError, match="Write KIND:NAME"):
        load_policy("react")
    with pytest.raises(UnknownNameError, match="did you mean 'webshop'"):
        ReActPolicy(model, world="webshp")
    with pytest.raises(DataNotFoundError, match="there are no prompts at"):
        ReActPolicy(model, prompts="mine")
    with pytest.raises(ValueError, match="no room"):
        ReActPolicy(model, max_context_tokens=512)
    with pytest.raises(TypeError, match="unexpected arguments: base_url"):
        ReActPolicy(model, base_url="x")
    with pytest.raises(SettingsError, match="temperature"):
        ReActPolicy(model, temperature=-1)


def test_tools_are_counted_as_part_of_what_a_model_reads() -> None:
    counted: list[Sequence[Any]] = []

    class Counting(ScriptedModel):
        max_context_tokens = 10_000

        def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Any] = ()) -> int:
            counted.append(tools)
            return 1

    for protocol, tools in (("thought", ()), ("tool", (ACT,))):
        counted.clear()
        policy = ReActPolicy(Counting(lambda _: "Hm."), protocol=protocol)  # type: ignore[arg-type]
        run_episode(policy, WEBSHOP, 0, split="seen", max_steps=2, **MINI)
        assert counted == [tools, tools]
    assert estimate_tokens([], tools=[ACT]) > 80
