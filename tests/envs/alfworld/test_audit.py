from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.alfworld.audit import audit
from eto_envs.errors import CorruptDataError, DataNotFoundError
from tests.envs.alfworld import fake_textworld
from tests.envs.alfworld.house import task_id

Fake = type[fake_textworld.PddlEnv]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    return fake_textworld.install(monkeypatch)


@pytest.fixture
def house(
    tmp_path: Path, write_games: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of official files."""
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    return write_games(tmp_path / "house")


def recorded() -> dict[str, Any]:
    """An episode as the original's recordings have it."""
    room = (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
        "around you, you see a countertop 2, a countertop 1, a drawer 2, a drawer 1, a fridge 1, a "
        "microwave 1, and a sinkbasin 1.\n\nYour task is to: put a egg in drawer."
    )
    places = ("countertop 1", "countertop 2", "drawer 1", "drawer 2", "fridge 1", "microwave 1")
    admissible = [*(f"go to {r}" for r in (*places, "sinkbasin 1")), "inventory", "look"]
    view = {"observation": room, "admissible_commands": admissible, "won": False}
    answer = view | {"action": "inventory", "observation": "You are not carrying anything."}
    game = f"json_2.1.1/train/{task_id('place')}/game.tw-pddl"
    return {"game": game, "init": view, "steps": [answer]}


def test_no_difference(house: Path, fake: Fake) -> None:
    done = []
    report = audit(str(house), n_games=8, progress=lambda n, of: done.append((n, of)))
    assert report.ok
    assert (report.n_episodes, report.n_differences) == (8, 0)
    assert 8 * 23 < report.n_steps == fake.made[0].n_steps
    assert done == [(n, 8) for n in range(1, 9)]
    assert str(report).endswith(f": 8 episodes, {report.n_steps} steps, differences: 0")
    assert len(fake.made) == 1


def test_more_games_than_there_are(house: Path, fake: Fake) -> None:
    assert audit(str(house), n_games=100).n_episodes == 24


def test_the_seed_draws_games_and_commands(
    house: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, given = fake.step, list[tuple[str, str]]()

    def step(self: Any, command: str) -> tuple[dict[str, Any], int, bool]:
        given.append((self.game.problem.task, command))
        return honest(self, command)

    def commands(seed: int) -> list[tuple[str, str]]:
        given.clear()
        audit(str(house), n_games=3, seed=seed)
        return list(given)

    monkeypatch.setattr(fake, "step", step)
    assert commands(1) == commands(1)
    assert commands(1) != commands(2)


def test_every_kind_of_difference_is_found(
    house: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = fake.step

    def step(self: Any, command: str) -> tuple[dict[str, Any], int, bool]:
        shown, score, done = honest(self, command)
        if self.n_steps == 3:
            shown["feedback"] = "Something happens."
        if self.n_steps == 4:
            shown["admissible_commands"] = shown["admissible_commands"][::-1]
        if self.n_steps == 5:
            shown["won"] = not shown["won"]
        return shown, score, done

    monkeypatch.setattr(fake, "step", step)
    report = audit(str(house), n_games=1)
    assert not report.ok
    assert report.n_differences == 3
    found = [(difference.n_steps, difference.what) for difference in report.differences]
    assert found == [(3, "observation"), (4, "admissible_commands"), (5, "won")]
    assert report.differences[0].original == "Something happens."
    assert "observation" in str(report).splitlines()[1]
    assert "original 'Something happens.'" in str(report).splitlines()[1]


def test_a_different_beginning_is_found(
    house: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = fake.reset
    monkeypatch.setattr(fake, "reset", lambda self: honest(self) | {"feedback": "Welcome!"})
    report = audit(str(house), n_games=2)
    assert [(d.n_steps, d.command, d.original) for d in report.differences] == [
        (0, "", "Welcome!"),
        (0, "", "Welcome!"),
    ]


def test_transcripts_need_no_textworld(house_pack: Path, tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl.gz"
    elsewhere = recorded() | {"game": "json_2.1.1/train/some_task/trial_9/game.tw-pddl"}
    wrong = recorded()
    wrong["steps"][0]["won"] = True
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(episode) + "\n" for episode in (recorded(), elsewhere, wrong))
    report = audit(str(house_pack), n_games=0, transcripts=path)
    assert (report.n_episodes, report.n_steps, report.n_skipped) == (2, 2, 1)
    assert [(d.command, d.what) for d in report.differences] == [("inventory", "won")]
    assert "2 episodes, 1 skipped, 2 steps, differences: 1" in str(report)


def test_nothing_compared_is_not_ok(house_pack: Path, tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    path.write_text("", encoding="utf-8")
    assert not audit(str(house_pack), n_games=0, transcripts=path).ok


@pytest.mark.parametrize("line", ["[]", "{}", "no JSON", '{"game": "a/b", "init": {}}'])
def test_lines_that_are_no_episode(house_pack: Path, tmp_path: Path, line: str) -> None:
    path = tmp_path / "recorded.jsonl"
    path.write_text(f"{json.dumps(recorded())}\n{line}\n", encoding="utf-8")
    with pytest.raises(CorruptDataError, match="line 2 is not a recorded episode"):
        audit(str(house_pack), n_games=0, transcripts=path)


def test_transcripts_that_are_cut_short(house_pack: Path, tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(recorded()).encode())[:-20])
    with pytest.raises(CorruptDataError, match="line 1 is not a recorded episode"):
        audit(str(house_pack), n_games=0, transcripts=path)


def test_what_is_not_there(house_pack: Path, tmp_path: Path, fake: Fake) -> None:
    with pytest.raises(DataNotFoundError, match="there is no file of recorded episodes"):
        audit(str(house_pack), n_games=0, transcripts=tmp_path / "none.jsonl")
    with pytest.raises(DataNotFoundError, match=r"the folder into which json_2\.1\.1 was unpacked"):
        audit(str(house_pack))


@pytest.mark.data
@pytest.mark.parametrize("release", ["2.1.1", "2.1.2"])
def test_recorded_transcripts_of_the_original(
    official: Callable[[str], Path],
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    release: str,
) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    transcripts = shared_data / "alfworld" / "golden" / f"alfworld-{release}.jsonl.gz"
    report = audit(str(official(release)), n_games=0, transcripts=transcripts)
    assert report.dataset == release
    assert (report.n_differences, report.n_skipped) == (0, 0)
    assert report.n_episodes == {"2.1.1": 213, "2.1.2": 244}[release]


@pytest.mark.slow
@pytest.mark.textworld
@pytest.mark.data
def test_against_textworld(
    official: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fast_downward", reason="TextWorld (the extra alfworld) is not installed")
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    report = audit(str(official("2.1.1")), n_games=20, seed=11)
    assert report.ok, str(report)
    assert report.n_episodes == 20
