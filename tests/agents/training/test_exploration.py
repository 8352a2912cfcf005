"""Exploration: episodes of training tasks in a folder that knows what decided them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.models.checkpoints import load_checkpoint, save_checkpoint
from eto_agents.policies.simple import ExpertPolicy
from eto_agents.settings import DPO, ETO, RFT, Playing, read_json
from eto_agents.training.exploration import explore, policy_of, sampling_policy
from eto_agents.training.stage import StageMismatchError
from eto_agents.training.task_splits import tasks_of
from eto_agents.trajectory import Trajectory
from tests.agents.training.worlds import BANDIT, WORLD, undecided
from tests.toy import CORRIDOR

pytestmark = pytest.mark.torch

WALK = Playing(env=CORRIDOR, n_envs=4)


class Walks:
    """Counts how many agents were made."""

    def __init__(self) -> None:
        self.n_made = 0

    def __call__(self) -> ExpertPolicy:
        self.n_made += 1
        return ExpertPolicy()


def go(folder: Path, make: Any, settings: Playing = WALK, **changes: Any) -> list[Trajectory]:
    given: dict[str, Any] = {
        "tasks": tasks_of(CORRIDOR, "train")[:3],
        "seeds": (0, 1),
        "inputs": {"model": "a"},
    }
    return explore(make, settings=settings, folder=folder, **given | changes)


def test_a_complete_folder_is_read_and_makes_no_agent(tmp_path: Path) -> None:
    make = Walks()
    episodes = go(tmp_path, make)
    assert [(e.task_id, e.seed) for e in episodes] == [
        (f"room{n}", seed) for seed in (0, 1) for n in (2, 3, 4)
    ]
    assert read_json(tmp_path / "result.json") == {"n_episodes": 6, "score": 1.0}
    assert make.n_made == 1
    assert go(tmp_path, make) == episodes
    assert make.n_made == 1


def test_an_interrupted_exploration_plays_the_rest(tmp_path: Path) -> None:
    class Stops(ExpertPolicy):
        n_actions = 0

        def act(self, *given: Any) -> Any:
            Stops.n_actions += 1
            if Stops.n_actions > 2 + 3 + 4:  # in the fourth episode
                raise KeyboardInterrupt
            return super().act(*given)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, Stops, replace(WALK, n_envs=1))
    assert not (tmp_path / "result.json").exists()
    before = (tmp_path / "episodes.jsonl").read_bytes()
    assert before.count(b'"completed"') == 3
    episodes = go(tmp_path, Walks())
    assert (tmp_path / "episodes.jsonl").read_bytes().startswith(before)
    assert [e.score for e in episodes] == [1.0] * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"model": "b"}}, "other inputs: model"),
        ({"tasks": tasks_of(CORRIDOR, "train")[:2]}, "other inputs: tasks"),
        ({"seeds": (0, 2)}, "seeds"),
        ({"temperature": 0.5}, r"temperature 1\.0 \(now 0\.5\)"),
        ({"settings": replace(WALK, max_new_tokens=8)}, "max_new_tokens"),
        ({"settings": replace(WALK, dataset="mini")}, "env_args"),
    ],
)
def test_other_episodes_need_another_folder(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    go(tmp_path, Walks())
    with pytest.raises(StageMismatchError, match=message):
        go(tmp_path, Walks(), **changes)


def test_how_many_are_played_at_once_decides_nothing(tmp_path: Path) -> None:
    episodes = go(tmp_path, Walks())
    assert go(tmp_path, Walks(), replace(WALK, n_envs=1)) == episodes


def test_an_agent_has_the_sampling_of_the_settings(tmp_path: Path) -> None:
    save_checkpoint(undecided(tmp_path, n_steps=1), tmp_path / "model")
    checkpoint = load_checkpoint(str(tmp_path / "model"), device="cpu")
    settings = ETO(env=BANDIT, world=WORLD, max_new_tokens=7, dpo=DPO(device="cpu"))
    for policy, temperature in (
        (policy_of(tmp_path / "model", settings, 0.3), 0.3),
        (policy_of(tmp_path / "model", settings, 0.0), 0.0),
        (sampling_policy(checkpoint, settings), 1.0),
    ):
        assert policy.sampling.temperature == temperature
        assert policy.sampling.max_tokens == 7


def test_an_explorer_can_be_shown_other_prompts_than_its_own(tmp_path: Path) -> None:
    save_checkpoint(undecided(tmp_path, n_steps=1), tmp_path / "model")
    other = tmp_path / "other.toml"
    other.write_text(f'world = "{WORLD}"\ninstruction = "Other letters."\n')
    settings = RFT(env=BANDIT, world=WORLD, prompts=str(other), with_example=True, device="cpu")
    own = policy_of(tmp_path / "model", settings, 1.0).provenance
    shown = policy_of(tmp_path / "model", settings, 1.0, prompts_of=settings).provenance
    assert own["prompt_sha256"] != shown["prompt_sha256"]
    assert (own["with_example"], shown["with_example"]) == (False, True)
    silent = replace(settings, prompts=None, with_example=None)
    assert policy_of(tmp_path / "model", silent, 1.0, prompts_of=silent).provenance == own
