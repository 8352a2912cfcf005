"""Playing on Ray actors: the same episodes, resumed across, and what dies in between."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from eto_agents import Decision, evaluate
from eto_agents.cli import main
from eto_agents.distributed import Cluster
from eto_agents.policies.simple import RandomPolicy
from eto_agents.settings import SettingsError
from eto_agents.store import TrajectoryStore
from eto_envs.errors import BackendError, EtoError

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of Ray's own

WEBSHOP = "ETO-WebShop-v0"
MINI = {"dataset": "mini"}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests, whose actors can import them."""
    import ray

    root = str(Path(__file__).resolve().parents[2])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


def episodes_of(folder: Path) -> dict[Any, Any]:
    """The episodes of a run without their times."""
    found = {}
    for episode in TrajectoryStore(folder / "episodes.jsonl").read():
        record = json.loads(episode.to_json())
        del record["wall_s"]
        for step in record["steps"]:
            del step["latency_s"]
        found[episode.key] = record
    return found


def run(policy: Any, out: Path, **kwargs: Any) -> Any:
    splits = ("seen", "unseen")
    return evaluate(policy, WEBSHOP, splits, env_args=MINI, n_tasks=30, out=out, **kwargs)


def test_the_episodes_are_the_same_and_runs_can_be_resumed_across(tmp_path: Path) -> None:
    plain = run("random", tmp_path / "plain")
    with Cluster(RandomPolicy, n_actors=2) as players:
        ours = run(players, tmp_path / "ray", n_envs=8)
        assert ours.splits["seen"].reward == plain.splits["seen"].reward
        assert ours.policy == plain.policy
        assert episodes_of(tmp_path / "ray") == episodes_of(tmp_path / "plain")
        # Half of the lines are played again, by the other way of playing.
        for name, policy in (("plain", players), ("ray", "random")):
            file = tmp_path / name / "episodes.jsonl"
            lines = file.read_bytes().splitlines(keepends=True)
            file.write_bytes(b"".join(lines[: len(lines) // 2]))
            resumed = run(policy, tmp_path / name)
            assert resumed.splits["unseen"].reward == plain.splits["unseen"].reward
            assert len(file.read_bytes().splitlines()) == len(lines)


class Mortal(RandomPolicy):
    """Kills its process once, in the middle of a batch of episodes."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = Path(mark)

    def act(self, slots: Sequence[int], observations: Any, infos: Any) -> list[Decision]:
        if any(info["n_steps"] == 3 for info in infos) and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().act(slots, observations, infos)


def test_the_episodes_of_a_killed_actor_are_played_again(tmp_path: Path) -> None:
    plain = run("random", tmp_path / "plain")
    mark = str(tmp_path / "killed")
    with Cluster(lambda: Mortal(mark), n_actors=2) as players:
        ours = run(players, tmp_path / "ray", n_envs=4)
    assert Path(mark).exists()
    assert ours.splits["seen"].reward == plain.splits["seen"].reward
    assert set(episodes_of(tmp_path / "ray")) == set(episodes_of(tmp_path / "plain"))
    lines = (tmp_path / "ray" / "episodes.jsonl").read_bytes().splitlines()
    assert len(lines) == len(episodes_of(tmp_path / "ray"))  # none twice


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise EtoError("the model is missing")


class Deadly(RandomPolicy):
    """Kills every process that plays it."""

    def act(self, slots: Sequence[int], observations: Any, infos: Any) -> list[Decision]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def test_what_goes_wrong_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    with Cluster(fail, n_actors=1) as players, pytest.raises(EtoError) as caught:
        run(players, tmp_path / "fails")
    assert str(caught.value) == "the model is missing"
    with Cluster(die, n_actors=1) as players, pytest.raises(BackendError, match="died at its"):
        run(players, tmp_path / "dies")
    with Cluster(Deadly, n_actors=1) as players, pytest.raises(BackendError, match="in a row"):
        run(players, tmp_path / "kills")
    with pytest.raises(SettingsError, match="at least 1"):
        Cluster(RandomPolicy, n_actors=0)


class Refused(RandomPolicy):
    """Gets no answer from its server."""

    def act(self, slots: Sequence[int], observations: Any, infos: Any) -> list[Decision]:
        return [Decision("", error="wrong key", is_permanent=True)] * len(slots)


def test_a_run_in_which_nothing_succeeds_is_stopped_and_stores_nothing(tmp_path: Path) -> None:
    with (
        Cluster(Refused, n_actors=1) as players,
        pytest.raises(EtoError, match="in 8 episodes in a row: wrong key"),
    ):
        run(players, tmp_path, n_envs=4)
    assert (tmp_path / "episodes.jsonl").read_bytes() == b""


def test_other_data_on_an_actor_is_refused(tmp_path: Path) -> None:
    from eto_agents.distributed import Work
    from eto_agents.rollout import jobs_of, open_task_set

    tasks = open_task_set(WEBSHOP, "seen", MINI)
    work = Work(WEBSHOP, {**MINI, "split": "seen"}, "0" * 64, 4, None)
    with Cluster(RandomPolicy, n_actors=1) as players, pytest.raises(EtoError, match="same data"):
        list(players.play(work, jobs_of(tasks[:2], (0,))))


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--env", WEBSHOP, "--dataset", "mini", "--n-tasks", "6", "--quiet"]
    common += ["--ray", "local", "--ray-actors", "2"]
    main(["eval", *common, "--policy", "expert", "--best-of", "2", "--out", str(tmp_path / "eval")])
    assert len(episodes_of(tmp_path / "eval")) == 24  # two splits, two samples
    main(["collect", *common, "--thoughts", "--out", str(tmp_path / "collected")])
    episodes = episodes_of(tmp_path / "collected").values()
    assert len(episodes) == 6
    assert all(step["thought"] for episode in episodes for step in episode["steps"])
    with pytest.raises(SystemExit):
        main(["eval", *common[:-4], "--ray-actors", "2", "--policy", "expert"])
    assert "--ray-actors needs --ray" in capsys.readouterr().err


@pytest.mark.torch
def test_exploration(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from eto_agents.models.checkpoint import save_checkpoint
    from eto_agents.settings import DPO, ETO
    from eto_agents.training.exploration import explore
    from eto_agents.training.task_splits import tasks_of
    from tests.agents.training.worlds import BANDIT, WORLD, undecided

    save_checkpoint(undecided(tmp_path), tmp_path / "model")
    env_id = f"tests.agents.training.worlds:{BANDIT}"  # so that actors can find it, too
    settings = ETO(
        env=env_id, world=WORLD, temperature=1.0, max_new_tokens=6, n_envs=8, dpo=DPO(device="cpu")
    )
    tasks = tasks_of(env_id, "train")[:6]
    explore(tmp_path / "model", tasks, settings, tmp_path / "plain")
    on_ray = dataclasses.replace(settings, ray="local", ray_actors=2)
    explore(tmp_path / "model", tasks, on_ray, tmp_path / "ray")
    plain, played = (
        {key: [step["action"] for step in episode["steps"]] for key, episode in found.items()}
        for found in map(episodes_of, (tmp_path / "plain", tmp_path / "ray"))
    )
    assert played == plain
    # An exploration that is complete, or was begun with Ray, is read without it.
    assert len(explore(tmp_path / "model", tasks, settings, tmp_path / "ray")) == 6
