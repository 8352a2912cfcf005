"""Training an agent that calls tools: every method plays as the model was trained, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.evaluation.harness import evaluate
from eto_agents.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from eto_agents.policies.react import ReActPolicy
from eto_agents.react.tools import ACT
from eto_agents.settings import DPO, ETO, GRPO, PPO, RFT, SFT, Playing, SettingsError
from eto_agents.store import TrajectoryStore
from eto_agents.training.eto import eto
from eto_agents.training.grpo import grpo
from eto_agents.training.ppo import ppo
from eto_agents.training.rft import rft
from eto_agents.training.sft import sft
from eto_envs.errors import CorruptDataError, DataError
from tests.agents.training.worlds import BANDIT, WORLD, episode, undecided, write_prompts

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]

PLAYING: dict[str, Any] = {"env": BANDIT, "world": WORLD, "max_new_tokens": 40, "n_tasks": 4}
ON_POLICY: dict[str, Any] = PLAYING | {
    "n_updates": 1, "n_episodes": 8, "kl_weight": 0.0, "save_every": 0, "device": "cpu"
}  # fmt: skip
EXPERTS = [episode("b", task_id=f"t{i}") for i in range(4)]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that calls the tool with a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("start")
    save_checkpoint(undecided(folder, protocol="tool"), folder / "start")
    return folder / "start"


def stated(folder: Path) -> Any:
    return json.loads((folder / "eto.json").read_text()).get("protocol")


def called(file: Path) -> bool:
    """Whether the episodes are of an agent with tools, which has called them."""
    episodes = list(TrajectoryStore(file).read())
    assert episodes
    return all(e.tools == [ACT] and e.messages[-1].get("tool_calls") for e in episodes)


def test_ppo_and_grpo_play_with_calls(start: Path, tmp_path: Path) -> None:
    methods: list[tuple[Any, Any]] = [
        (ppo, PPO(**ON_POLICY)),
        (grpo, GRPO(n_samples=4, **ON_POLICY)),
    ]
    for method, settings in methods:
        trained, result = method(start, settings, out=tmp_path / method.__name__)
        assert stated(trained) == "tool"
        assert result["first_score"] > 0  # or nobody has understood the calls


def test_rft_plays_with_calls_and_imitates_experts_as_calls(start: Path, tmp_path: Path) -> None:
    settings = RFT(
        **PLAYING, n_samples=2, epochs=1, batch_size=4, max_length=512, device="cpu", save_every=0
    )
    trained, result = rft(start, EXPERTS, settings, explorer=start, out=tmp_path / "out")
    assert called(tmp_path / "out" / "explored" / "episodes.jsonl")
    assert (result["n_expert"], result["n_explored"]) == (4, 8)
    assert result["explored_score"] > 0
    assert stated(trained) == "tool"


def test_eto_pairs_calls_with_experts(start: Path, tmp_path: Path) -> None:
    settings = ETO(
        **PLAYING, iterations=1, temperature=1.0, n_samples=2,
        dpo=DPO(epochs=1, batch_size=2, device="cpu", save_every=0),
    )  # fmt: skip
    *_, last = eto(start, EXPERTS, settings, out=tmp_path)
    assert called(tmp_path / "iteration-1" / "explore" / "episodes.jsonl")
    assert last.counts["pairs"] > 0
    assert stated(Path(last.model)) == "tool"
    step_wise = replace(settings, pairs="step", n_samples=1)
    with pytest.raises(DataError, match="this agent calls tools"):
        list(eto(start, EXPERTS, step_wise, out=tmp_path / "step"))


def sft_with(folder: Path, experts: Any, **changes: Any) -> Path:
    settings = SFT(epochs=1, batch_size=4, max_length=512, device="cpu", save_every=0)
    settings = replace(settings, world=WORLD, prompts=write_prompts(folder), **changes)
    return sft("tiny:nano", experts, settings, out=folder / "sft").checkpoint


def test_sft_remembers_the_protocol(tmp_path: Path) -> None:
    trained = sft_with(tmp_path, EXPERTS, protocol="tool")
    assert stated(trained) == "tool"
    evaluate(
        ReActPolicy(f"hf:{trained}", world=WORLD, max_tokens=8, device="cpu"),
        BANDIT,
        ("train",),
        out=tmp_path / "eval",
        n_tasks=2,
    )
    played = list(TrajectoryStore(tmp_path / "eval" / "episodes.jsonl").read())
    assert [e.tools for e in played] == [[ACT], [ACT]]
    for policy in (
        lambda: ReActPolicy(f"hf:{trained}", protocol="thought", world=WORLD, device="cpu"),
        lambda: load_checkpoint(trained).policy(Playing(world=WORLD, protocol="thought")),
        lambda: ppo(trained, PPO(**ON_POLICY, protocol="thought"), out=tmp_path / "ppo"),
    ):
        with pytest.raises(SettingsError, match="was trained with the protocol 'tool'"):
            policy()
    # What was played with tools is imitated with tools, without being asked to.
    (tmp_path / "again").mkdir()
    assert stated(sft_with(tmp_path / "again", played)) == "tool"


def test_experts_that_hold_no_conversation_are_imitated_in_text(tmp_path: Path) -> None:
    assert stated(sft_with(tmp_path, EXPERTS)) == "thought"


def test_an_older_checkpoint_leaves_the_choice(tmp_path: Path) -> None:
    """It may be a model of somebody else's, of which nobody knows what it can do."""
    save_checkpoint(undecided(tmp_path, n_steps=1), tmp_path / "old")
    old = load_checkpoint(tmp_path / "old", device="cpu")
    assert (old.protocol, stated(tmp_path / "old")) == (None, None)
    for protocol in ("thought", "tool"):
        policy = old.policy(Playing(world=WORLD, protocol=protocol))  # type: ignore[arg-type]
        assert bool(policy.tools) == (protocol == "tool")
    assert not old.policy(Playing(world=WORLD)).tools


def test_a_protocol_that_does_not_exist_is_damage(tmp_path: Path) -> None:
    save_checkpoint(undecided(tmp_path, n_steps=1), tmp_path / "model")
    path = tmp_path / "model" / "eto.json"
    for wrong in ("shout", 3, None):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"protocol": wrong}))
        with pytest.raises(CorruptDataError, match="no protocol"):
            load_checkpoint(tmp_path / "model", device="cpu")


def test_a_checkpoint_keeps_its_protocol(tmp_path: Path) -> None:
    checkpoint: Checkpoint = undecided(tmp_path, n_steps=1, protocol="tool")
    save_checkpoint(checkpoint, tmp_path / "model")
    assert load_checkpoint(tmp_path / "model", device="cpu").protocol == "tool"
