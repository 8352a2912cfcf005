"""Experiment trackers: what they receive, also of resumed runs, and failures that do no harm."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from eto_agents.runs import RunFolder, once
from eto_agents.settings import DPO, ETO, GRPO, PPO, RFT, SFT
from eto_agents.tracking import Trackers, require_trackers, run_name
from eto_envs.errors import CorruptDataError, MissingExtraError, UnknownNameError
from tests.agents.trackers import Service, install, tensorboard_config, tensorboard_scalars

SETTINGS = {"epochs": 3, "model": None, "dpo": {"beta": 0.1}, "splits": ["seen", "unseen"]}
CONFIG = {"epochs": 3, "dpo.beta": 0.1, "splits": '["seen", "unseen"]'}
SERVICES = ("wandb", "mlflow", "trackio")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Service:
    return install(monkeypatch, "wandb")


def send(folder: Path, *steps: int, names: tuple[str, ...] = ("wandb",)) -> None:
    with Trackers(names, folder, SETTINGS) as trackers:
        for step in steps:
            trackers.log({"step": step, "loss": 1 / step})


def only(service: Service) -> dict[str, Any]:
    (run,) = service.runs.values()
    return run


def steps_of(service: Service) -> list[int]:
    return [step for step, _ in only(service)["lines"]]


@pytest.mark.parametrize("name", SERVICES)
def test_a_run_has_a_name_its_settings_and_its_metrics(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = install(monkeypatch, name)
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/eto/iteration-1/dpo")
    folder.mkdir(parents=True)
    with Trackers((name, name), folder, SETTINGS) as trackers:
        assert service.runs == {}  # nothing to send, nothing opened
        trackers.log({"step": 0, "nothing": None, "text": "loss"})
        assert service.runs == {}
        trackers.log({"step": 1, "loss": 2, "rewards/margins": 0.5, "bad": float("nan")})
        trackers.log({"step": 1, "train_loss": 1.5})  # a second line of the same step
        trackers.log({"step": 2, "loss": 1.0})
    run = only(service)
    assert run["lines"] == [
        (1, {"loss": 2.0, "rewards/margins": 0.5}), (1, {"train_loss": 1.5}), (2, {"loss": 1.0})
    ]  # fmt: skip
    shown = run.get("name") or next(iter(service.runs))  # Trackio's name is its id
    assert shown.startswith("eto/iteration-1/dpo")
    assert "eto-gym" in run["project"]
    as_text = {key: str(value) for key, value in CONFIG.items()}
    assert run["config"] == (as_text if name == "mlflow" else CONFIG)
    assert run["states"][0] == "open"
    assert run["states"][1] in (0, "FINISHED", "finished")
    assert capsys.readouterr().out == ""  # stdout is for results


@pytest.mark.parametrize("name", SERVICES)
def test_a_resumed_run_continues_without_repeating_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = install(monkeypatch, name)
    send(tmp_path, 1, 2, 3, names=(name,))
    send(tmp_path, 2, 3, 4, names=(name,))  # the steps after the last saved state are repeated
    assert steps_of(service) == [1, 2, 3, 4]
    assert only(service)["states"].count("open") == 2
    send(tmp_path, 3, 4, names=(name,))
    assert only(service)["states"].count("open") == 2  # nothing is new: it is not even opened


def test_tensorboard_writes_to_the_runs_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    send(tmp_path, 1, 2, names=("tensorboard",))
    send(tmp_path, 2, 3, names=("tensorboard",))
    values = [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert tensorboard_scalars(tmp_path) == {"loss": values}
    assert tensorboard_config(tmp_path) == [CONFIG]
    assert "torch" not in str(sys.modules.get("tensorboard.compat.tf", ""))


def test_an_interrupted_run_is_reported_as_such(tmp_path: Path, wandb: Service) -> None:
    def stop() -> None:
        with Trackers(("wandb",), tmp_path, {}) as trackers:
            trackers.log({"step": 1, "loss": 1.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert only(wandb)["states"] == ["open", 1]


def test_a_step_is_not_sent_again_when_it_is_unknown_whether_it_arrived(
    tmp_path: Path, wandb: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(run_id: str, numbers: Any, step: int) -> None:
        wandb.runs[run_id]["lines"].append((step, numbers))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(wandb, "log", killed)
        with pytest.raises(KeyboardInterrupt):
            send(tmp_path, 1)
    send(tmp_path, 1, 2)
    assert steps_of(wandb) == [1, 2]


def test_a_failing_tracker_is_given_up_with_one_warning(
    tmp_path: Path, wandb: Service, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    trackio = install(monkeypatch, "trackio")
    with (
        caplog.at_level(logging.WARNING),
        Trackers(("wandb", "trackio"), tmp_path, SETTINGS) as trackers,
    ):
        trackers.log({"step": 1, "loss": 1.0})
        wandb.is_down = True
        for step in (2, 3):
            trackers.log({"step": step, "loss": 1.0})
    (record,) = caplog.records
    assert record.getMessage().startswith("wandb receives no further metrics of ")
    assert record.getMessage().endswith("ConnectionError: no route to host")
    assert steps_of(wandb) == [1]
    assert steps_of(trackio) == [1, 2, 3]
    wandb.is_down = False
    send(tmp_path, 3, 4)  # resumed, it is tried again
    assert steps_of(wandb) == [1, 3, 4]


def test_a_tracker_that_cannot_be_opened_does_not_end_the_run(
    tmp_path: Path, wandb: Service, caplog: Any
) -> None:
    wandb.is_down = True
    send(tmp_path, 1, 2)
    assert len(caplog.records) == 1
    assert not (tmp_path / "trackers.json").exists()
    wandb.is_down = False
    send(tmp_path, 1, 2)
    assert steps_of(wandb) == [1, 2]


def test_of_several_processes_only_the_main_one_reports(
    tmp_path: Path, wandb: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    send(tmp_path, 1)
    assert wandb.runs == {}
    assert list(tmp_path.iterdir()) == []


def test_unknown_and_missing_trackers(
    tmp_path: Path, wandb: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="no tracker 'wandbb'; did you mean 'wandb'"):
        Trackers(("wandbb",), tmp_path, {})
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"requires the package 'mlflow': pip install mlf"):
        Trackers(("wandb", "mlflow"), tmp_path, {})
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / "wandb").mkdir()  # what wandb leaves behind is not the package
    with pytest.raises(MissingExtraError, match="pip install wandb"):
        require_trackers(("wandb",))


@pytest.mark.parametrize("method", [SFT, RFT, DPO, PPO, GRPO, ETO])
def test_every_method_has_the_setting(method: Any) -> None:
    assert method().report_to == ()
    assert method(report_to=("tensorboard", "wandb")).report_to == ("tensorboard", "wandb")
    with pytest.raises(UnknownNameError, match="no tracker 'aim'; there are 4: 'tensorboard', 'w"):
        method(report_to=("aim",))


@pytest.mark.parametrize("text", ["[]", '{"wandb": 1}', '{"wandb": {"id": "a", "step": null}}'])
def test_a_damaged_record_is_an_error(text: str, tmp_path: Path, wandb: Service) -> None:
    (tmp_path / "trackers.json").write_text(text)
    with pytest.raises(CorruptDataError, match=r"trackers\.json"):
        send(tmp_path, 1)


def test_names_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/me").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home/me")
    assert run_name(Path("runs/sft")) == run_name(tmp_path / "home/me/runs/sft") == "runs/sft"
    assert run_name(Path("runs/eto/iteration-1/dpo")) == "eto/iteration-1/dpo"
    assert run_name(tmp_path / "disk/runs/sft") == "disk/runs/sft"


def test_a_run_folder_reports_what_it_logs(tmp_path: Path, wandb: Service) -> None:
    """The tracker catches up with a run that was started without it, and survives a rewind."""
    settings: dict[str, Any] = {"epochs": 3, "report_to": []}
    with RunFolder(tmp_path, settings, {}, kind="sft") as run:
        for step in (1, 2):
            run.log({"step": step, "loss": 1.0})
    settings["report_to"] = ["wandb"]  # which trackers there are does not make it another run
    for start, last in ((1, 3), (2, 4)):
        with (
            RunFolder(tmp_path, settings, {}, kind="sft") as run,
            run.reporting(settings["report_to"]),
        ):
            run.rewind(start)
            for step in range(start + 1, last + 1):
                run.log({"step": step, "loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert steps_of(wandb) == [1, 2, 3, 4]
    assert only(wandb)["config"] == {"kind": "sft", "epochs": 3, "report_to": '["wandb"]'}
    with RunFolder(tmp_path, settings, {}, kind="sft") as run:
        run.log({"step": 5, "loss": 1.0})  # outside of the context
    assert steps_of(wandb) == [1, 2, 3, 4]


def test_a_complete_stage_reports_nothing(tmp_path: Path, wandb: Service) -> None:
    def make(run: RunFolder) -> dict[str, Any]:
        run.log({"step": 1, "loss": 1.0})
        return {}

    for settings in (SFT(), SFT(report_to=("wandb",))):
        once(tmp_path / "sft", make, kind="sft", settings=settings)
    assert wandb.runs == {}
    once(tmp_path / "other", make, kind="sft", settings=SFT(report_to=("wandb",)))
    assert steps_of(wandb) == [1]
