"""`eto train`: a command for each method; its flags are the fields of the method's settings.

Settings can come from a TOML file, ``--config FILE``; flags take precedence over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from tyro.conf import OmitArgPrefixes, arg

from eto_agents.console import Display
from eto_agents.processes import is_main_process
from eto_agents.settings import DPO, ETO, GRPO, PPO, RFT, SFT, read_toml_file
from eto_envs.errors import UnknownNameError, require

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
    """Fine-tune on expert trajectories (behaviour cloning). Rerun the command to resume.

    For example: eto train sft --data runs/experts --model tiny:small --out runs/sft

    Args:
        settings: of the training.
        data: folders of `eto collect` or `eto eval`, or files of trajectories.
        model: what is trained: a checkpoint's folder or name, "tiny" or "tiny:SIZE".
        out: the folder of the run.
        min_score: the least final score of a trajectory; by default what its collection states.
        quiet: show no progress.
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
    """Explore, then fine-tune on the expert's trajectories and the agent's successes.

    Rerun the command to resume. For example: eto train rft --data runs/experts
    --explorer runs/sft/checkpoint --model runs/sft/checkpoint --out runs/rft

    Args:
        settings: of exploration and training.
        explorer: the checkpoint that plays, such as the one of `eto train sft`.
        data: folders of `eto collect` or `eto eval`, or files of trajectories.
        model: what is fine-tuned.
        out: the folder of the run.
        quiet: show no progress.
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
    """Trajectory DPO on a file of pairs. Rerun the command to resume.

    For example: eto train dpo --pairs runs/eto/iteration-1/pairs/pairs.jsonl
    --model runs/sft/checkpoint --out runs/dpo

    Args:
        settings: of the training.
        pairs: a file of preference pairs.
        model: the policy to begin with, which is the reference: a checkpoint's folder or name.
        out: the folder of the run.
        quiet: show no progress.
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
    """PPO on the tasks of a split. Rerun the command to resume.

    For example: eto train ppo --env ETO-ALFWorld-v0 --model runs/sft/checkpoint --out runs/ppo

    Args:
        settings: of the training.
        model: the SFT policy: a checkpoint's folder or name.
        out: the folder of the run.
        quiet: show no progress.
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
    """GRPO on the tasks of a split. Rerun the command to resume.

    For example: eto train grpo --env ETO-ALFWorld-v0 --model runs/sft/checkpoint --out runs/grpo

    Args:
        settings: of the training.
        model: the SFT policy: a checkpoint's folder or name.
        out: the folder of the run.
        quiet: show no progress.
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
    """ETO: explore, pair, prefer, evaluate, and again. Rerun the command to resume.

    For example: eto train eto --env ETO-ALFWorld-v0 --data runs/experts
    --model runs/sft/checkpoint --out runs/eto

    Args:
        settings: of the loop.
        model: the SFT policy: a checkpoint's folder or name.
        data: folders of `eto collect` with the experts' trajectories.
        out: the folder of the run.
        splits: every iteration is evaluated on these; none for no evaluation.
        n_eval_tasks: only the first this many tasks of each.
        quiet: show no progress.
    """
    from rich.console import Console

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
        line = f"iteration {best.number} is the result: {best.model}"
        Console(highlight=False).print(iteration_table(done, scores, best.number), line, sep="\n")


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "sft": sft,
    "rft": rft,
    "dpo": dpo,
    "ppo": ppo,
    "grpo": grpo,
    "eto": eto,
}
"""What can follow ``eto train``."""


@contextmanager
def _training(quiet: bool) -> Iterator[None]:
    """Show progress; of several processes the main one alone shows, evaluates and prints."""
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
        raise EmptyDataError("no data: name folders of `eto collect`")
    return [e for path in data for e in read_collection(path, min_score=min_score).kept]


def _evaluate(
    model: str, settings: ETO, splits: Sequence[str], n_tasks: int | None, folder: Path
) -> dict[str, float]:
    """Mean rewards by split, greedily; of several processes only the main one plays."""
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
    )
    return {split: part.reward.mean for split, part in results.splits.items()}


def iteration_table(
    done: Sequence[Iteration], scores: Sequence[Mapping[str, float]], best: int
) -> Table:
    """The scores by iteration, the paper's Figure 4 in numbers."""
    from eto_agents.console import table

    splits = list(dict.fromkeys(name for found in scores for name in found))
    rows = []
    for row, found in zip(done, scores, strict=True):
        counts = row.counts
        outcomes = " / ".join(str(counts.get(name, 0)) for name in ("win", "tie", "lose"))
        values = (row.explored, row.dev, *(found.get(name) for name in splits))
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
    """A command line in which ``--config FILE`` is replaced by the flags that the file means.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not TOML.
        UnknownNameError: ``--config`` names no file.
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
    for key, value in _flattened(read_toml_file(path)).items():
        if not _is_given(key, given):
            flags += _flag(key, value)
    return [*given[:2], *flags, *given[2:]]


_TAKE_TRUE_OR_FALSE: Final = ("with_example",)
"""Settings for which neither yes nor no is the default; their flags are followed by a value."""


def _flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The keys of tables as the flags have them: ``beta`` below ``[dpo]`` is ``dpo.beta``."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        flat |= _flattened(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _names(key: str) -> tuple[str, str]:
    """The flags of a key: the one that sets it, and the one that turns it off."""
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
    from rich.console import Console

    if not is_main_process():
        return
    width = max(map(len, result))
    lines = [f"{name:<{width}}  {value}" for name, value in result.items()]
    lines.append(f"written to {folder}: checkpoint/, metrics.jsonl, result.json")
    Console(highlight=False, markup=False, soft_wrap=True).print("\n".join(lines))
