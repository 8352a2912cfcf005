"""Reading TensorBoard's files, and stand-ins for trackers whose packages tests do not need."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name, in the order of the files in a run's folder."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for event in tensorboard_events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars


def tensorboard_config(folder: Path) -> list[dict[str, Any]]:
    """The configurations in a run's folder."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    configs = []
    for event in tensorboard_events(folder):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                hparams = data.session_start_info.hparams.items()
                kinds = {name: (v, v.WhichOneof("kind")) for name, v in hparams}
                configs.append({name: getattr(v, kind) for name, (v, kind) in kinds.items()})
    return configs


def tensorboard_events(folder: Path) -> list[Any]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = sorted((folder / "tensorboard").iterdir())
    return [event for file in files for event in LegacyEventFileLoader(str(file)).Load()]


class Service:
    """What the stand-ins have received: runs by their id."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.is_down = False

    def open(self, run_id: str, **about: Any) -> dict[str, Any]:
        self.check()
        run = self.runs.setdefault(run_id, {"lines": [], "states": []})
        run.update({name: value for name, value in about.items() if value is not None})
        run["states"].append("open")
        return run

    def log(self, run_id: str, numbers: dict[str, float], step: int) -> None:
        self.check()
        self.runs[run_id]["lines"].append((step, numbers))

    def check(self) -> None:
        if self.is_down:
            raise ConnectionError("no route to host")


def install(monkeypatch: pytest.MonkeyPatch, name: str) -> Service:
    """Put a stand-in in the place of a tracker's package, with the functions that are used."""
    service = Service()
    module = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}[name](service)
    module.__spec__ = ModuleSpec(name, None, origin="stand-in")
    monkeypatch.setitem(sys.modules, name, module)
    if name == "mlflow":
        monkeypatch.setitem(sys.modules, "mlflow.entities", module.entities)
    return service


def _wandb(service: Service) -> Any:
    module: Any = ModuleType("wandb")

    def init(*, project: str, dir: str, id: str, resume: str, reinit: str, **about: Any) -> Any:
        assert (resume, reinit) == ("allow", "create_new")
        run = service.open(id, project=project, dir=dir, **about)
        return SimpleNamespace(
            log=lambda numbers, step: service.log(id, numbers, step),
            finish=lambda exit_code: run["states"].append(exit_code),
        )

    module.init = init
    return module


def _mlflow(service: Service) -> Any:
    module: Any = ModuleType("mlflow")
    module.entities = ModuleType("mlflow.entities")
    module.entities.Param = lambda key, value: (key, value)
    module.entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    experiments: dict[str, Any] = {}

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> Any:
            return experiments.get(name)

        def create_experiment(self, name: str) -> str:
            experiments[name] = SimpleNamespace(experiment_id=f"experiment of {name}")
            return f"experiment of {name}"

        def create_run(self, experiment_id: str, run_name: str) -> Any:
            run_id = f"run {len(service.runs)}"
            service.open(run_id, project=experiment_id, name=run_name, config={})
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        def update_run(self, run_id: str, status: str) -> None:
            assert status == "RUNNING"
            service.open(run_id)

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            assert len(params) <= 100
            service.runs[run_id]["config"].update(params)
            if metrics:
                (step,) = {step for _, _, step in metrics}
                service.log(run_id, {key: value for key, value, _ in metrics}, step)

        def set_terminated(self, run_id: str, status: str) -> None:
            service.runs[run_id]["states"].append(status)

    module.MlflowClient = MlflowClient
    return module


def _trackio(service: Service) -> Any:
    module: Any = ModuleType("trackio")

    def init(*, project: str, name: str, resume: str, config: Any) -> Any:
        assert resume == "allow"
        print("Trackio says hello")
        run = service.open(name, project=project, config=config)
        module.finish = lambda: run["states"].append("finished")
        return SimpleNamespace(log=lambda numbers, step: service.log(name, numbers, step))

    module.init = init
    return module
