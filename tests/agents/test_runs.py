"""Run folders: claimed, refused, resumed and complete."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from eto_agents.preference import PreferencePair
from eto_agents.runs import (
    RunFolder,
    RunMismatchError,
    episodes_folder,
    hash_input,
    once,
    read_record,
)
from eto_agents.store import TrajectoryStore
from eto_agents.training.pairs import Pair
from eto_agents.trajectory import Message, Trajectory
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from tests.agents.training.episodes import episode


@dataclass(frozen=True)
class Settings:
    epochs: int = 3
    report_to: tuple[str, ...] = ()


def run_folder(
    folder: Path, settings: Any = None, inputs: Mapping[str, str] | None = None, kind: str = "sft"
) -> RunFolder:
    return RunFolder(folder, settings or Settings(), inputs or {}, kind=kind)


def test_a_run_is_complete_when_its_result_is_written(tmp_path: Path) -> None:
    with run_folder(tmp_path, inputs={"data": "a"}) as run:
        assert run.result is None
        run.log({"step": 1, "loss": 2.0})
        run.work.mkdir()
        run.finish({"n_steps": 1})
        assert not run.work.exists()
    names = {"run.json", "metrics.jsonl", "result.json"}
    assert names <= {file.name for file in tmp_path.iterdir()}
    with run_folder(tmp_path, Settings(report_to=("wandb",)), {"data": "a"}) as again:
        assert again.result == {"n_steps": 1}


def test_different_settings_inputs_and_kinds_are_refused(tmp_path: Path) -> None:
    with run_folder(tmp_path, inputs={"data": "a"}):
        pass
    with (
        pytest.raises(RunMismatchError, match=r"epochs 3 \(now 4\)"),
        run_folder(tmp_path, Settings(epochs=4), {"data": "a"}),
    ):
        pass
    for inputs in ({"data": "b"}, {}, {"data": "a", "more": "c"}):
        with (
            pytest.raises(RunMismatchError, match=r"different inputs: (data|more) changed"),
            run_folder(tmp_path, inputs=inputs),
        ):
            pass
    with (
        pytest.raises(RunMismatchError, match="of kind 'sft' and not 'dpo'"),
        run_folder(tmp_path, inputs={"data": "a"}, kind="dpo"),
    ):
        pass
    with run_folder(tmp_path, inputs={"data": "a"}):  # a refusal releases the lock
        pass


def test_splits_can_be_added_to_a_run_of_episodes(tmp_path: Path) -> None:
    def folder(**task_sets: str) -> RunFolder:
        about: dict[str, Any] = {"env_id": "E", "env_args": {}, "policy": "p"}
        return episodes_folder(tmp_path, **about, policy_provenance={}, task_sets=task_sets)

    with folder(seen="a") as run:
        run.state(n_planned={"seen": 3})
    with folder(unseen="b") as run:
        run.state(n_planned=run.record.facts["n_planned"] | {"unseen": 2})
    record = read_record(tmp_path)
    assert record is not None
    assert record.inputs == {"seen": "a", "unseen": "b"}
    assert record.facts == {"n_planned": {"seen": 3, "unseen": 2}}
    with pytest.raises(RunMismatchError, match="seen changed"), folder(seen="c", unseen="b"):
        pass


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        run_folder(tmp_path),
        pytest.raises(DataError, match="another process is using"),
        run_folder(tmp_path),
    ):
        pass
    with run_folder(tmp_path) as run:
        monkeypatch.setenv("RANK", "1")  # a process of the same launch that does not write
        with run_folder(tmp_path) as other:
            other.log({"step": 1})
            other.finish({"score": 0.0})
            assert not run.metrics()
            assert run.result is None
            run.finish({"score": 1.0})
            other.wait()
            assert other.result == {"score": 1.0}


def test_repeated_steps_are_logged_once(tmp_path: Path) -> None:
    with run_folder(tmp_path) as run:
        for step in (1, 2, 3):
            run.log({"step": step})
        with (tmp_path / "metrics.jsonl").open("a") as lines:
            lines.write('{"step": 4, "lo')  # interrupted in the middle of a line
        assert [line["step"] for line in run.metrics()] == [1, 2, 3]
        run.rewind(2)
        run.log({"step": 3})
        assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_errors_name_the_damaged_file(tmp_path: Path) -> None:
    with run_folder(tmp_path) as run:
        (tmp_path / "metrics.jsonl").write_text("{\n{}\n")
        with pytest.raises(CorruptDataError, match=r"metrics\.jsonl, line 1: not JSON"):
            run.metrics()
        (tmp_path / "result.json").write_text("[]")
        with pytest.raises(CorruptDataError, match="not a JSON object"):
            _ = run.result
    record = json.loads((tmp_path / "run.json").read_text())
    for name, value in (("kind", 3), ("settings", []), ("inputs", None)):
        (tmp_path / "run.json").write_text(json.dumps(record | {name: value}))
        with pytest.raises(CorruptDataError, match=f"run.json is damaged: '{name}' is missing or"):
            read_record(tmp_path)


def test_a_folder_of_an_incompatible_version_is_refused(tmp_path: Path) -> None:
    with run_folder(tmp_path):
        pass
    record = json.loads((tmp_path / "run.json").read_text())
    for change, version in (
        ({"schema": 99, "version": "7.1.0"}, r"version 7\.1\.0 of eto-gym"),
        ({"schema": 2, "version": None}, "an early version of eto-gym"),
    ):
        old = {k: v for k, v in (record | change).items() if v is not None}
        (tmp_path / "run.json").write_text(json.dumps(old))
        with pytest.raises(DataError, match=f"was written by {version}"), run_folder(tmp_path):
            pass
    (tmp_path / "run.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "inputs.json").write_text("{}")
    with pytest.raises(DataError, match="an early version of eto-gym"), run_folder(tmp_path):
        pass


def test_once_runs_a_stage_that_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def make(run: RunFolder) -> dict[str, int]:
        calls.append(run.folder)
        return {"n": len(calls)}

    def do(**changes: Any) -> dict[str, Any] | None:
        arguments = {"kind": "sft", "settings": Settings(), "data": ["a", "b"]} | changes
        return once(tmp_path, make, **arguments).result

    assert do() == do() == {"n": 1}
    assert len(calls) == 1
    with pytest.raises(RunMismatchError, match="data changed"):
        do(data=["a"])
    monkeypatch.setenv("RANK", "1")
    assert do() == {"n": 1}
    (tmp_path / "result.json").unlink()
    monkeypatch.setattr("eto_agents.runs.wait_until", lambda is_done: None)
    assert do() is None  # another process has to complete it
    assert len(calls) == 1
    do(everywhere=True)
    assert len(calls) == 2


def test_an_interrupted_stage_is_not_complete(tmp_path: Path) -> None:
    def fail(run: RunFolder) -> dict[str, int]:
        run.work.mkdir()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path, fail, kind="sft", settings=Settings())
    assert (tmp_path / "work").is_dir()
    done = once(tmp_path, lambda run: {"resumed": run.work.is_dir()}, kind="sft", settings={
        "epochs": 3, "report_to": [],
    })  # fmt: skip
    assert done.result == {"resumed": True}


def test_hashes_depend_only_on_what_matters(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "episodes.jsonl").write_text("a\n")
    first = hash_input(run)
    (run / "report.md").write_text("x")
    assert hash_input(run) == first == hash_input(run / "episodes.jsonl") == hash_input(str(run))
    (run / "episodes.jsonl").write_text("b\n")
    assert hash_input(run) != first
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    before = hash_input(model)
    (model / "eto.json").write_text("{}")
    assert hash_input(model) != before
    assert hash_input("org/model") == "org/model"
    with pytest.raises(DataNotFoundError):
        hash_input(tmp_path / "nothing")


def test_data_in_memory_is_hashed_by_content() -> None:
    def reply(text: str) -> list[Message]:
        return [{"role": "assistant", "content": text}]

    task: list[Message] = [{"role": "user", "content": "do"}]
    pair = PreferencePair(task, reply("\ud800"), reply("y"), 1.0, 0.0, "t")
    assert hash_input([pair]) == hash_input([replace(pair)])
    other = replace(pair, chosen=reply("x"))
    assert len({hash_input(d) for d in ([pair], [other], [pair, other], [other, pair], [])}) == 5


def test_a_hash_of_episodes_changes_with_any_of_them() -> None:
    def some() -> list[Trajectory]:
        return [episode(n) for n in range(3)]

    first, second, third = some()
    assert hash_input(some()) == hash_input(tuple(some())) == hash_input(iter(some()))
    reread = [Trajectory.from_json(one.to_json()) for one in some()]
    assert hash_input(reread) == hash_input(some())
    upper = [replace(step, action=step.action.upper()) for step in second.steps]
    others = [
        [],
        [first, second],
        [first, third, second],
        [first, second, third, third],
        [first, replace(second, score=0.5), third],
        [first, replace(second, seed=1), third],
        [first, replace(second, steps=upper), third],
        [first, replace(second, steps=second.steps[:1]), third],
    ]
    hashes = [hash_input(some()), *map(hash_input, others)]
    assert len(set(hashes)) == len(hashes)


def test_a_hash_of_pairs_covers_both_sides_and_the_shared_steps() -> None:
    good, bad = episode(0), episode(0, n_steps=3, score=0.5)
    pairs = [Pair(good, bad), Pair(bad, good), Pair(good, bad, 1), Pair(good, good), Pair(bad, bad)]
    hashes = [hash_input([pair]) for pair in pairs]
    assert len(set(hashes)) == len(hashes)
    assert hash_input([Pair(episode(0), episode(0, n_steps=3, score=0.5))]) == hashes[0]
    assert hash_input(pairs[:2]) != hash_input(pairs[1::-1])
    assert hash_input([Pair(good, bad)]) != hash_input([good, bad])


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    def leave() -> None:
        (tmp_path / ".checkpoint.123").mkdir(exist_ok=True)
        (tmp_path / ".checkpoint.123" / "model.safetensors").write_bytes(b"half")
        (tmp_path / ".checkpoint.123.old").mkdir(exist_ok=True)
        (tmp_path / ".result.json.123").write_text("{")
        (tmp_path / "work" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / "a" / ".state.pt.123").write_bytes(b"half")

    kept = {"run.json", "metrics.jsonl", ".lock", ".hidden", ".notes.txt"}
    with run_folder(tmp_path) as run:
        run.log({"step": 1})
        for name in (".hidden", ".notes.txt"):
            (tmp_path / name).write_text("")
    leave()
    with run_folder(tmp_path) as run:
        assert {file.name for file in tmp_path.iterdir()} == kept | {"work"}  # to resume from
        assert list((tmp_path / "work" / "a").iterdir()) == []
        leave()
        run.finish({})
    leave()  # killed after the result was written, before `work` was deleted
    with run_folder(tmp_path):
        assert {file.name for file in tmp_path.iterdir()} == kept | {"result.json"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("runs/chain/mini", "{}/runs/chain/mini"),
        ("{}/runs/chain/mini", "runs/chain/mini"),
        ("runs/chain/mini", "./runs/../runs/chain/mini/"),
        ("runs/chain/mini", "link"),
        ("hf:runs/chain/mini", "hf:{}/runs/chain/mini"),
    ],
)
def test_the_same_folder_written_another_way_is_the_same(
    first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/chain/mini").mkdir(parents=True)
    (tmp_path / "runs/other").mkdir()
    (tmp_path / "link").symlink_to("runs/chain/mini")
    folder = Path("runs/chain/sft")
    settings = {"env_args": {"dataset": first.format(tmp_path)}, "epochs": 3}
    with run_folder(folder, settings):
        pass
    again = {"env_args": {"dataset": second.format(tmp_path)}, "epochs": 3}
    with run_folder(tmp_path / folder, again):
        pass
    for other in ("runs/other", "hf:runs/other", "mini", "runs/chain", ""):
        with (
            pytest.raises(RunMismatchError, match="dataset"),
            run_folder(folder, {"env_args": {"dataset": other}, "epochs": 3}),
        ):
            pass
    monkeypatch.chdir(tmp_path / "runs")  # a relative path was written in a parent of the folder
    here = {"env_args": {"dataset": "chain/mini"}, "epochs": 3}
    if not first.startswith("hf:"):
        with run_folder(Path("chain/sft"), here):
            pass


def test_the_lock_is_released_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TrajectoryStore(tmp_path / "episodes.jsonl")

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def close(self) -> None:
            self.file.close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as error_info, store:
        monkeypatch.setattr(store, "_file", Full(store._file))
    assert error_info.value.filename == str(tmp_path / "episodes.jsonl")
    with store:
        store.append(episode(1))
    (tmp_path / "episodes.jsonl").unlink()
    (tmp_path / "episodes.jsonl").mkdir()
    with pytest.raises(IsADirectoryError), store:
        pass
    (tmp_path / "episodes.jsonl").rmdir()
    with store:
        pass


def test_settings_that_json_cannot_write_are_the_same_when_read(tmp_path: Path) -> None:
    for _ in range(2):
        with run_folder(tmp_path, {"max_sampling_gap": float("inf")}) as run:
            run.state(loss=float("nan"))
            run.log({"loss": float("nan")})
    with run_folder(tmp_path, {"max_sampling_gap": float("inf")}) as run:
        run.finish({"loss": float("-inf")})
    for name in ("run.json", "metrics.jsonl", "result.json"):
        text = (tmp_path / name).read_text()
        assert "NaN" not in text
        assert "Infinity" not in text
