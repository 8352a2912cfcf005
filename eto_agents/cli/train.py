"""`eto train`: one command per method, with the fields of the method's settings as its flags.

Settings can be read from a TOML file, ``--config FILE``; flags override the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from tyro.conf import OmitArgPrefixes, arg

from eto_agents.console import Display, show, table
from eto_agents.processes import is_main_process
from eto_agents.settings import DPO, ETO, GRPO, PPO, RFT, SFT, flattened
from eto_envs.errors import UnknownNameError, require
from eto_envs.files import read_toml

if TYPE_CHECKING:
    from rich.table import Table

    from eto_agents.training.eto import Iteration
    from eto_agents.trajectory import Trajectory


def sft(
    settings: Annotated[SFT, OmitArgPrefixes],
    data: tuple[Path, ...] = (),
    model: str = "tiny",
    out: Path = Path("runs/sft"),
    min_score: float | None = None,
    quiet: bool = False,
) -> None:
    """Supervised fine-tuning on expert trajectories (behaviour cloning).

    Rerun the command to resume. With --config FILE, options are read from a TOML file.

    For example:
        eto train sft --data runs/experts --model tiny:small --out runs/sft

    Args:
        settings: Settings of the training.
        data: Folders written by `eto collect` or `eto eval`, or files of trajectories.
        model: Model to train: folder of a checkpoint, name on the Hugging Face hub, or tiny or
            tiny:SIZE for a new small model.
        out: Folder of the run.
        min_score: Minimum final score of a trajectory, in [0, 1]; by default its collection's.
        quiet: Show no progress.
    """
    with _training(quiet):
        from eto_agents.training.sft import sft as train

        trained = train(model, _experts(data, min_score), settings, out=out)
    _show(trained.result, out)


def rft(
    settings: Annotated[RFT, OmitArgPrefixes],
    explorer: str,
    data: tuple[Path, ...] = (),
    model: str = "tiny",
    out: Path = Path("runs/rft"),
    quiet: bool = False,
) -> None:
    r"""Rejection-sampling fine-tuning (RFT) on expert trajectories and the agent's successes.

    The explorer plays every task several times; its successes join the expert trajectories.

    Rerun the command to resume. With --config FILE, options are read from a TOML file.

    For example:
        eto train rft --data runs/experts --explorer runs/sft/checkpoint \
            --model runs/sft/checkpoint --out runs/rft

    Args:
        settings: Settings of the exploration and of the training.
        explorer: Checkpoint that plays, such as the result of `eto train sft`.
        data: Folders written by `eto collect` or `eto eval`, or files of trajectories.
        model: Model to train: folder of a checkpoint, name on the Hugging Face hub, or tiny or
            tiny:SIZE for a new small model.
        out: Folder of the run.
        quiet: Show no progress.
    """
    with _training(quiet):
        from eto_agents.training.rft import rft as train

        trained = train(model, _experts(data), settings, explorer=explorer, out=out)
    _show(trained.result, out)


def dpo(
    settings: Annotated[DPO, OmitArgPrefixes],
    pairs: Path,
    model: str,
    out: Path = Path("runs/dpo"),
    quiet: bool = False,
) -> None:
    r"""Direct preference optimisation (DPO) on a file of trajectory pairs.

    Rerun the command to resume. With --config FILE, options are read from a TOML file.

    For example:
        eto train dpo --pairs runs/eto/iteration-1/pairs/pairs.jsonl \
            --model runs/sft/checkpoint --out runs/dpo

    Args:
        settings: Settings of the training.
        pairs: File of preference pairs.
        model: Initial policy, which is also the reference policy: folder of a checkpoint, or name
            on the Hugging Face hub.
        out: Folder of the run.
        quiet: Show no progress.
    """
    with _training(quiet):
        from eto_agents.preference import read_pairs
        from eto_agents.training.dpo import dpo as train

        trained = train(model, list(read_pairs(pairs)), settings, out=out)
    _show(trained.result, out)


def ppo(
    settings: Annotated[PPO, OmitArgPrefixes],
    model: str,
    out: Path = Path("runs/ppo"),
    quiet: bool = False,
) -> None:
    """Proximal policy optimisation (PPO) on the tasks of a split.

    Rerun the command to resume. With --config FILE, options are read from a TOML file.

    For example:
        eto train ppo --env ETO-ALFWorld-v0 --model runs/sft/checkpoint --out runs/ppo

    Args:
        settings: Settings of the training.
        model: Initial policy, such as the result of `eto train sft`: folder of a checkpoint, or
            name on the Hugging Face hub.
        out: Folder of the run.
        quiet: Show no progress.
    """
    with _training(quiet):
        from eto_agents.training.ppo import ppo as train

        trained = train(model, settings, out=out)
    _show(trained.result, out)


def grpo(
    settings: Annotated[GRPO, OmitArgPrefixes],
    model: str,
    out: Path = Path("runs/grpo"),
    quiet: bool = False,
) -> None:
    """Group-relative policy optimisation (GRPO) on the tasks of a split.

    Rerun the command to resume. With --config FILE, options are read from a TOML file.

    For example:
        eto train grpo --env ETO-ALFWorld-v0 --model runs/sft/checkpoint --out runs/grpo

    Args:
        settings: Settings of the training.
        model: Initial policy, such as the result of `eto train sft`: folder of a checkpoint, or
            name on the Hugging Face hub.
        out: Folder of the run.
        quiet: Show no progress.
    """
    with _training(quiet):
        from eto_agents.training.grpo import grpo as train

        trained = train(model, settings, out=out)
    _show(trained.result, out)


def eto(
    settings: Annotated[ETO, arg(name="")],
    model: str,
    data: tuple[Path, ...] = (),
    out: Path = Path("runs/eto"),
    splits: tuple[str, ...] = ("seen", "unseen"),
    n_eval_tasks: int | None = None,
    quiet: bool = False,
) -> None:
    r"""Exploration-based trajectory optimisation (ETO), the paper's method.

    Each iteration explores, pairs better episodes with worse ones, and trains on them with DPO.

    Rerun the command to resume. With --config FILE, options are read from a TOML file.

    For example:
        eto train eto --env ETO-ALFWorld-v0 --data runs/experts \
            --model runs/sft/checkpoint --out runs/eto

    Args:
        settings: Settings of the loop.
        model: Initial policy, such as the result of `eto train sft`: folder of a checkpoint, or
            name on the Hugging Face hub.
        data: Folders written by `eto collect` with the experts' trajectories.
        out: Folder of the run.
        splits: Splits on which every iteration is evaluated; give none to skip the evaluation.
        n_eval_tasks: Evaluate only on the first N tasks of each split. By default on all.
        quiet: Show no progress.
    """
    with _training(quiet):
        from eto_agents.training.eto import best_of
        from eto_agents.training.eto import eto as train

        done, scores = [], []
        for iteration in train(model, _experts(data, required=False), settings, out=out):
            done.append(iteration)
            folder = out / f"iteration-{iteration.number}" / "evaluation"
            scores.append(_evaluate(iteration.model, settings, splits, n_eval_tasks, folder))
        best = best_of(done, settings)
    if is_main_process():
        line = f"result: iteration {best.number}, {best.model}"
        show(iteration_table(done, scores, best.number), line)


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "sft": sft,
    "rft": rft,
    "dpo": dpo,
    "ppo": ppo,
    "grpo": grpo,
    "eto": eto,
}
"""The commands after ``eto train``."""


@contextmanager
def _training(quiet: bool) -> Iterator[None]:
    """Show progress; of several processes only the main one shows, evaluates and prints."""
    require("trl", extra="train")
    from eto_agents.training.trl import quiet_libraries

    with Display(quiet or not is_main_process()), quiet_libraries():
        yield


def _experts(
    data: Sequence[Path], min_score: float | None = None, *, required: bool = True
) -> list[Trajectory]:
    from eto_agents.collection import read_collection
    from eto_agents.training.rows import EmptyDataError

    if required and not data:
        raise EmptyDataError("no training data: give --data a folder written by `eto collect`")
    return [e for path in data for e in read_collection(path, min_score=min_score).selected]


def _evaluate(
    model: str, settings: ETO, splits: Sequence[str], n_tasks: int | None, folder: Path
) -> dict[str, float]:
    """Mean reward by split under greedy decoding; of several processes only the main one plays."""
    if not splits or not is_main_process():
        return {}
    from eto_agents.evaluation.harness import evaluate
    from eto_agents.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(model, dtype=settings.dpo.dtype, device=settings.dpo.device)
    results = evaluate(
        checkpoint.policy(settings),
        settings.env,
        splits,
        out=folder,
        n_envs=settings.n_envs,
        n_tasks=n_tasks,
        env_args=settings.env_args,
        report_to=settings.report_to,
    )
    return {split: part.reward.mean for split, part in results.splits.items()}


def iteration_table(
    done: Sequence[Iteration], scores: Sequence[Mapping[str, float]], best: int
) -> Table:
    """The scores by iteration: the paper's Figure 4 as a table."""
    splits = list(dict.fromkeys(name for by_split in scores for name in by_split))
    rows = []
    for row, by_split in zip(done, scores, strict=True):
        counts = row.counts
        outcomes = " / ".join(str(counts.get(name, 0)) for name in ("win", "tie", "lose"))
        values = (row.explored, row.dev, *(by_split.get(name) for name in splits))
        rows.append(
            (
                f"{row.number}{' *' if row.number == best else ''}",
                str(counts.get("pairs", "")),
                outcomes if counts else "",
                *("" if value is None else f"{value:.3f}" for value in values),
            )
        )
    return table(("iteration", "pairs", "win / tie / lose", "explored", "dev", *splits), rows)


def with_config(arguments: Sequence[str]) -> list[str]:
    """Replace ``--config FILE`` in a command line by the flags that the file stands for.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: the file is not valid TOML.
        UnknownNameError: no file follows ``--config``.
    """
    given = list(arguments)
    if given[:1] != ["train"] or "--config" not in given:
        return given
    at = given.index("--config")
    if at + 1 == len(given):
        raise UnknownNameError("settings file", "", (), "Write --config FILE.")
    path = Path(given[at + 1])
    del given[at : at + 2]
    flags: list[str] = []
    for key, value in flattened(read_toml(path)).items():
        if not _is_given(key, given):
            flags += _flag(key, value)
    return [*given[:2], *flags, *given[2:]]


_TAKE_TRUE_OR_FALSE: Final = ("with_example",)
"""Settings with the values true, false and none; their flags are followed by a value."""


def _names(key: str) -> tuple[str, str]:
    """The two flags of a key: the one that sets it, and the one that turns it off."""
    *sections, name = key.replace("_", "-").split(".")
    prefix = "".join(f"{section}." for section in sections)
    return f"--{prefix}{name}", f"--{prefix}no-{name}"


def _is_given(key: str, arguments: Sequence[str]) -> bool:
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    return not given.isdisjoint(_names(key))


def _flag(key: str, value: Any) -> list[str]:
    on, off = _names(key)
    if isinstance(value, bool) and key.replace("-", "_") not in _TAKE_TRUE_OR_FALSE:
        return [on if value else off]
    return [on, *(str(part) for part in (value if isinstance(value, list) else [value]))]


def _show(result: Mapping[str, Any], folder: Path) -> None:
    if not is_main_process():
        return
    width = max(map(len, result))
    lines = [f"{name:<{width}}  {value}" for name, value in result.items()]
    lines.append(f"written to {folder}: checkpoint/, metrics.jsonl, result.json")
    show(*lines)
