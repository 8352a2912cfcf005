"""Run folders are read whether finished or not; errors name the damaged file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from eto_agents.episode_log import read_log
from eto_agents.evaluation.results import Results
from eto_agents.evaluation.runs import read_run, read_runs
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError, EtoError
from tests.agents.evaluation.made_runs import made_episode, made_run, scores_of


def test_a_complete_run(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a", {"seen": scores_of(0.5, 1.0), "unseen": scores_of(0.0)})
    run = read_run(folder)
    seen, unseen = run.splits
    assert (run.label, run.policy, run.is_finished) == ("agent", "agent", False)
    assert (seen.split, seen.is_complete, seen.n_planned) == ("seen", True, 2)
    assert seen.summary.reward.mean == 0.75
    assert unseen.summary.reward.mean == 0.0
    assert all(e.messages == [] for e in seen.episodes)


def test_an_unfinished_run_is_not_complete(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a", {"seen": scores_of(0.5, 1.0)}, n_planned={"seen": 7})
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"env_id": "ETO-')  # being written
    (split_run,) = read_run(folder).splits
    assert (len(split_run.episodes), split_run.is_complete) == (2, False)
    record = json.loads((folder / "run.json").read_text())
    del record["facts"]["n_planned"]  # an import does not plan
    (folder / "run.json").write_text(json.dumps(record))
    (split_run,) = read_run(folder).splits
    assert (split_run.n_planned, split_run.is_complete) == (None, False)


def test_an_episode_played_again_replaces_the_first(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a", {"seen": scores_of(0.5)})
    again = made_episode(
        "t000", 1.0, env_id="ETO-ALFWorld-v0", policy="agent", tasks_sha256="aaseen"
    )
    with (folder / "episodes.jsonl").open("a") as file:
        file.write(again.to_json() + "\n")
    (split_run,) = read_run(folder).splits
    assert [e.score for e in split_run.episodes] == [1.0]


def edit_line(number: int, key: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "episodes.jsonl"
        lines = path.read_text().splitlines()
        record = json.loads(lines[number - 1])
        record[key] = value
        lines[number - 1] = json.dumps(record)
        path.write_text("\n".join(lines) + "\n")

    return edit


def edit_settings(folder: Path) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["settings"]["env_id"] = 3
    (folder / "run.json").write_text(json.dumps(record))


def edit_step_score(folder: Path) -> None:
    path = folder / "episodes.jsonl"
    path.write_text(path.read_text().replace('"score": 0.25', '"score": Infinity', 1))


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def append_bytes(content: bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        with (folder / "episodes.jsonl").open("ab") as file:
            file.write(content)

    return edit


def make_a_folder_of(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return edit


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (edit_line(2, "score", float("nan")), CorruptDataError, r"episodes.jsonl, line 2.*nan"),
        (edit_line(1, "score", 1.5), CorruptDataError, r"episodes.jsonl, line 1.*1.5"),
        (edit_line(3, "score", None), CorruptDataError, r"episodes.jsonl, line 3.*None"),
        (edit_step_score, CorruptDataError, r"episodes.jsonl, line 1: step 1: score is inf"),
        (edit_line(2, "schema", 99), CorruptDataError, r"episodes.jsonl, line 2.*schema 99"),
        (edit_line(2, "policy", "other"), CorruptDataError, r"line 2.*'other'.*mixed"),
        (edit_line(3, "tasks_sha256", "zz"), CorruptDataError, r"line 3.*tasks_sha256.*mixed"),
        (edit_line(3, "split", "train"), CorruptDataError, r"line 3.*mixed"),
        (append_bytes(b"{}\n"), CorruptDataError, r"episodes.jsonl, line 4"),
        (append_bytes(b"\xff\xfe\n"), CorruptDataError, r"episodes.jsonl, line 4: not UTF-8"),
        (write("episodes.jsonl", b""), DataNotFoundError, "no complete episode.*eto eval"),
        (make_a_folder_of("episodes.jsonl"), DataError, "episodes.jsonl"),
        (make_a_folder_of("run.json"), DataError, "run.json"),
        (write("run.json", b'{\n "env_id": '), CorruptDataError, r"run.json, line 2"),
        (write("run.json", b"[]"), CorruptDataError, "run.json is not a JSON object"),
        (write("run.json", b'{"env_id": 3}'), DataError, "written by an early version"),
        (edit_settings, CorruptDataError, "run.json is damaged.*env_id"),
        (write("run.json", b"\xff"), CorruptDataError, "run.json is not UTF-8"),
        (write("results.json", b"{"), CorruptDataError, "results.json"),
        (write("results.json", b'{"schema": 9}'), CorruptDataError, "results.json.*schema 9"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, damage: Callable[[Path], None], kind: type[EtoError], message: str
) -> None:
    folder = made_run(tmp_path / "a", {"seen": scores_of(0.25, 0.5, 1.0)})
    damage(folder)
    with pytest.raises(kind, match=message):
        read_run(folder)


@pytest.mark.parametrize(
    ("name", "schema"), [("run.json", 3), ("episodes.jsonl", 3), ("results.json", 2)]
)
def test_a_run_of_schema_1_is_refused(tmp_path: Path, name: str, schema: int) -> None:
    folder = made_run(tmp_path / "a", {"seen": scores_of(0.5)})
    Results("ETO-ALFWorld-v0", "mini", "agent", {}).save(folder / "results.json")
    old = (folder / name).read_text().replace("tasks_sha256", "panel_sha256")
    assert f'"schema": {schema}' in old
    old = old.replace(f'"schema": {schema}', '"schema": 1')
    (folder / name).write_text(old)
    message = rf"{name}.* has schema 1, .* reads schema {schema}"
    if name == "run.json":
        message = "was written by version .* of eto-gym, whose folders"
        with pytest.raises(DataError, match=message):
            read_log(folder)
    with pytest.raises(DataError, match=message):
        read_run(folder)


def test_folders_and_names(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a", {"seen": scores_of(0.5)})
    odd = made_run(tmp_path / "lr=1e-6", {"seen": scores_of(0.5)})
    runs = read_runs([f"mine={folder}", str(odd)])
    assert [run.label for run in runs] == ["mine", "agent"]
    with pytest.raises(DataError, match="given twice"):
        read_runs([str(folder), f"mine={folder}"])
    with pytest.raises(DataNotFoundError, match=r"no run\.json"):
        read_runs([str(tmp_path)])
    with pytest.raises(DataNotFoundError, match="nowhere is no evaluation"):
        read_runs([str(tmp_path / "nowhere")])


def test_of_several_samples_the_best_counts(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a", {"seen": scores_of(0.25, 0.5)}, n_planned={"seen": 4})
    for task, score in (("t000", 0.75), ("t001", 0.0)):
        origin = {"env_id": "ETO-ALFWorld-v0", "policy": "agent", "tasks_sha256": "aaseen"}
        append_bytes(made_episode(task, score, sample=1, **origin).to_json().encode() + b"\n")(
            folder
        )
    (split_run,) = read_run(folder).splits
    assert (split_run.n_samples, split_run.n_ended, split_run.is_complete) == (2, 4, True)
    assert sorted(e.score for e in split_run.episodes) == [0.5, 0.75]
    assert split_run.summary.reward.mean == 0.625
    assert split_run.summary.tokens == 4 * 3
