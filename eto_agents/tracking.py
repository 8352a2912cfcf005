"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and Trackio.

`Trackers` sends them the numbers of a run, with the run's settings as its configuration. A training
method does not call it: `RunFolder.log` passes on what it writes to ``metrics.jsonl``. What is sent
is therefore decided elsewhere; here is how a tracker is opened, resumed and given up.

accelerate and transformers have classes for the same trackers. They create the state of accelerate,
which in a launch of several processes waits for all of them, but only the main one has anything to
send; and they need PyTorch, which an evaluation of a model behind a server does not.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from eto_agents.processes import is_main_process
from eto_agents.settings import check_trackers, flattened
from eto_agents.strict_json import json_text, write_json
from eto_envs.errors import CorruptDataError, MissingExtraError
from eto_envs.files import read_json_object

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

PROJECT: Final = "eto-gym"
"""The project (MLflow: experiment) of all runs, unless the tracker's own variable names another."""

_MAX_TEXT: Final = 500
"""Longer values of the configuration are cut: MLflow may refuse them."""

Config = Mapping[str, "str | float | bool"]
Numbers = Mapping[str, float]


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers exist and are installed, without importing them.

    Raises:
        UnknownNameError: there is no such tracker.
        MissingExtraError: its package is not installed.
    """
    check_trackers(names)
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # without origin it is just a folder of that name
            raise MissingExtraError(
                f"reporting to {name} requires the package {name!r}: pip install {name}"
            )


class Trackers:
    """The trackers of one run; a context manager.

    A tracker is opened when there is something to send. What it has received is recorded in the
    run's folder, in ``trackers.json``, so that a resumed run continues there and repeats no step. A
    tracker that fails is given up with a warning, since training must not end because a server is
    down; when the run is resumed, it is tried again.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        """Check the trackers; none is opened yet.

        Args:
            names: the trackers; of several processes only the main one uses them.
            folder: the run's folder, after which the run is named.
            settings: the run's settings; nested ones get dotted names.

        Raises:
            UnknownNameError: there is no such tracker.
            MissingExtraError: its package is not installed.
            CorruptDataError: ``trackers.json`` is damaged.
        """
        require_trackers(names)
        self._names = list(dict.fromkeys(names)) if is_main_process() else []
        self._folder = folder
        self._settings = settings
        self._opened: dict[str, _Tracker] = {}
        self._record = _read_record(self._file) if self._names else {}
        self._resumed_at = {name: entry["step"] for name, entry in self._record.items()}

    def __enter__(self) -> Self:
        """Nothing is opened before the first metrics."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the trackers, and tell them whether the run has ended normally."""
        for name in list(self._names):
            if (tracker := self._opened.get(name)) is not None:
                with self._giving_up(name), contextlib.redirect_stdout(sys.stderr):
                    tracker.close(is_complete=error is None)
        self._names, self._opened = [], {}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Send the finite numbers among some metrics.

        Args:
            metrics: values by name; ``"step"``, by default 0, is their position on the horizontal
                axis. To a tracker that received something of this step, or a later one, before the
                run was resumed, nothing is sent.
        """
        step = int(metrics.get("step", 0))
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        for name in list(self._names):
            if numbers and step > self._resumed_at.get(name, -1):
                with self._giving_up(name):
                    self._send(name, numbers, step)

    def _send(self, name: str, numbers: Numbers, step: int) -> None:
        if name not in self._opened:
            with contextlib.redirect_stdout(sys.stderr):  # they greet, and stdout is for results
                self._opened[name] = self._open(name)
        # First the record: a process that is killed in between leaves out a step, rather than
        # sending it twice.
        self._record[name] = {"id": self._opened[name].id, "step": step}
        write_json(self._file, self._record)
        self._opened[name].log(numbers, step)

    def _open(self, name: str) -> _Tracker:
        earlier = self._record.get(name)
        return _TRACKERS[name](
            self._folder,
            run_name(self._folder),
            _config(self._settings),
            None if earlier is None else earlier["id"],
        )

    @contextlib.contextmanager
    def _giving_up(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 (third-party code: lose the record, not the run)
            self._names.remove(name)
            logger.warning(
                "%s receives no further metrics of %s, which continues without it: %s: %s",
                *(name, self._folder, type(error).__name__, error),
            )

    @property
    def _file(self) -> Path:
        return self._folder / "trackers.json"


def run_name(folder: Path) -> str:
    """A run's name: the last three parts of its path, such as ``eto/iteration-1/dpo``.

    Parts above the working directory are left out.
    """
    parts = [part for part in Path(os.path.relpath(folder)).parts if part not in ("..", os.sep)]
    return "/".join(parts[-3:])


def _config(settings: Mapping[str, Any]) -> Config:
    """The settings as trackers accept them: by dotted name, without None, other types as text."""
    config: dict[str, str | float | bool] = {}
    for name, value in flattened(settings).items():
        if isinstance(value, bool | int | float):
            config[name] = value
        elif value is not None:
            config[name] = (value if isinstance(value, str) else json_text(value))[:_MAX_TEXT]
    return config


def _read_record(file: Path) -> dict[str, dict[str, Any]]:
    """By tracker the id of the run and the last step that was sent."""
    record = read_json_object(file) if file.is_file() else {}
    for entry in record.values():
        fits = isinstance(entry, dict) and isinstance(entry.get("id"), str)
        if not fits or type(entry.get("step")) is not int:
            raise CorruptDataError(f"{file} is damaged: delete it to report to new runs")
    return record


class _Tracker(Protocol):
    """What `Trackers` needs of a tracker.

    The constructor takes the run's folder, its name, its configuration, and the `id` of a run that
    is resumed, which has its name and configuration already.

    Attributes:
        id: identifies the run.
    """

    id: str

    def __init__(self, folder: Path, name: str, config: Config, run_id: str | None) -> None: ...

    def log(self, numbers: Numbers, step: int) -> None: ...

    def close(self, *, is_complete: bool) -> None: ...


class _TensorBoard:
    """Event files in the run's folder; a resumed run adds another file."""

    def __init__(self, folder: Path, name: str, config: Config, run_id: str | None) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.id = run_id or "tensorboard"
        self._events = EventFileWriter(str(folder / "tensorboard"))
        if run_id is None:
            self._add(hparams_pb(dict(config)))

    def log(self, numbers: Numbers, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=n) for name, n in numbers.items()]
        self._add(Summary(value=values), step)

    def close(self, *, is_complete: bool) -> None:
        self._events.close()

    def _add(self, summary: Any, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._events.add_event(Event(summary=summary, step=step, wall_time=time.time()))
        self._events.flush()


class _WandB:
    """A run on the server of Weights & Biases, with its local files in the run's folder."""

    def __init__(self, folder: Path, name: str, config: Config, run_id: str | None) -> None:
        import wandb

        self.id = run_id or uuid.uuid4().hex[:8]
        about = {} if run_id else {"name": name, "config": dict(config)}
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(folder),
            id=self.id,
            resume="allow",
            reinit="create_new",  # leave alone a run that the caller may have open
            **about,
        )

    def log(self, numbers: Numbers, step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, *, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)


class _MLflow:
    """A run on the server of ``MLFLOW_TRACKING_URI``, or where MLflow stores runs by default."""

    def __init__(self, folder: Path, name: str, config: Config, run_id: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        # The client, since MLflow's functions would use a run that the caller may have open.
        self._client = MlflowClient()
        if run_id is None:
            self.id = self._client.create_run(self._experiment(), run_name=name).info.run_id
            params = [Param(key, str(value)) for key, value in config.items()]
            for start in range(0, len(params), 100):  # MLflow takes at most 100 at once
                self._client.log_batch(self.id, params=params[start : start + 100])
        else:
            self.id = run_id
            self._client.update_run(run_id, status="RUNNING")

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name))
        return str(experiment.experiment_id)

    def log(self, numbers: Numbers, step: int) -> None:
        from mlflow.entities import Metric

        now_ms = round(time.time() * 1000)
        metrics = [Metric(name, number, now_ms, step) for name, number in numbers.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, *, is_complete: bool) -> None:
        self._client.set_terminated(self.id, status="FINISHED" if is_complete else "FAILED")


class _Trackio:
    """A run in Trackio's cache, or on the Space of ``TRACKIO_SPACE_ID``."""

    def __init__(self, folder: Path, name: str, config: Config, run_id: str | None) -> None:
        import trackio

        # Trackio resumes runs by name, so that the name has to be unique.
        self.id = run_id or f"{name}-{uuid.uuid4().hex[:6]}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            resume="allow",
            config=dict(config),  # also of a resumed run, whose configuration would be emptied
        )

    def log(self, numbers: Numbers, step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, *, is_complete: bool) -> None:
        import trackio

        trackio.finish()  # `Run.finish` would be called again at the exit


_TRACKERS: Final[Mapping[str, type[_Tracker]]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}
