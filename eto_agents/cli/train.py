"""`eto train`: a command for each stage; its flags are the fields of the stage's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from tyro.conf import OmitArgPrefixes

from eto_agents.cli import preference
from eto_agents.cli.evaluation import given
from eto_agents.config import read_toml_file
from eto_agents.console import Display
from eto_agents.training.rft import RFTSettings
from eto_agents.training.sft import SFTSettings
from eto_envs.errors import UnknownNameError

if TYPE_CHECKING:
    from eto_agents.evaluation.results import Results


def sft(settings: Annotated[SFTSettings, OmitArgPrefixes], quiet: bool = False) -> None:
    """Fine-tune on expert trajectories (behaviour cloning); rerun the command to resume.

    Settings can come from a TOML file (--config FILE); flags take precedence.

    Args:
        settings: of the training.
        quiet: show no progress.
    """
    from eto_agents.training import sft as stage

    with Display(quiet):
        result = stage.sft(settings)
    show_result(result, settings.out)


def rft(settings: Annotated[RFTSettings, OmitArgPrefixes], quiet: bool = False) -> None:
    """Explore, then fine-tune on the expert's trajectories and the agent's successes.

    Rerun the command to resume. Settings can come from a TOML file (--config FILE); flags take
    precedence.

    Args:
        settings: of exploration and training.
        quiet: show no progress.
    """
    from eto_agents.training import rft as stage

    with Display(quiet):
        result = stage.rft(settings)
    show_result(result, settings.out)


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "sft": sft,
    "rft": rft,
    "eto": preference.eto,
    "dpo": preference.dpo,
    "ppo": preference.ppo,
}
"""What can follow ``eto train``."""


def evaluate_checkpoint(
    settings: SFTSettings,
    env: str,
    splits: Sequence[str],
    *,
    dataset: str | None = None,
    n_tasks: int | None = None,
    lockstep: int = 64,
    max_tokens: int = 512,
) -> Results:
    """Play task sets with what a stage trained, show the table, and keep it in ``evaluation/``."""
    from rich.console import Console

    from eto_agents.evaluation.harness import evaluate
    from eto_agents.evaluation.report import rich_table
    from eto_agents.models.huggingface import HuggingFaceModel
    from eto_agents.policies.react import ReActPolicy

    model = HuggingFaceModel(str(settings.out / "checkpoint"), device=settings.device)
    results = evaluate(
        ReActPolicy(model, world=settings.world, max_tokens=max_tokens),
        env,
        splits,
        out=settings.out / "evaluation",
        batch_size=lockstep,
        n_tasks=n_tasks,
        env_args=given(dataset=dataset),
    )
    Console(highlight=False).print(rich_table(results))
    return results


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
    for key, value in read_toml_file(path).items():
        if not _is_given(key, given):
            flags += _flag(key.replace("_", "-"), value)
    return [*given[:2], *flags, *given[2:]]


def _is_given(key: str, arguments: Sequence[str]) -> bool:
    names = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    name = key.replace("_", "-")
    return f"--{name}" in names or f"--no-{name}" in names


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *(str(part) for part in (value if isinstance(value, list) else [value]))]


def show_result(result: Mapping[str, Any], folder: Path) -> None:
    """Print what a stage came to."""
    from rich.console import Console

    width = max(map(len, result))
    lines = [f"{name:<{width}}  {value}" for name, value in result.items()]
    lines.append(f"written to {folder}: checkpoint/, metrics.jsonl, result.json")
    Console(highlight=False, markup=False, soft_wrap=True).print("\n".join(lines))
