"""Behaviour cloning: supervised fine-tuning on expert trajectories, the paper's Section 3.1.

Defaults are the paper's (Section 4.1): 3 epochs, batches of 64, learning rate 1e-5 with 3 %
warm-up and a cosine, AdamW, the loss on the agent's tokens. The stage (`training.stage`)
goes on after a kill and ends with the same weights as an undisturbed run. The loop itself is
TRL's (`eto_agents.training.trainer`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from eto_agents.collection import read_collection
from eto_agents.config import SettingsError
from eto_agents.models.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from eto_agents.training.processes import gathered_weights
from eto_agents.training.rows import EmptyDataError, Rows, TooLong, build_rows, texts_of
from eto_agents.training.stage import Stage, hash_input
from eto_agents.trajectory import Trajectory
from eto_envs.errors import require

if TYPE_CHECKING:
    from eto_agents.training.trainer import RowTrainer

Schedule = Literal["cosine", "linear", "constant_with_warmup", "warmup_stable_decay"]

TINY: Final = "tiny"
"""A model's name that means: make one (`eto_agents.models.tiny`) from the data."""


@dataclass(frozen=True)
class SFTSettings:
    """What `sft` is told.

    Attributes:
        data: folders of `eto collect` or `eto eval`, or files of trajectories.
        out: the stage's folder.
        model: what is trained: a checkpoint's folder or name, "tiny" or "tiny:SIZE".
        epochs: how often every trajectory is seen.
        batch_size: trajectories of an optimizer step, over all processes.
        micro_batch_size: trajectories computed at once by a process.
        tokens_per_step: if not 0, an optimizer step takes as many trajectories of like length as
            have at most so many tokens with their padding, and `batch_size` does not count: long
            and short ones then weigh by their tokens. For one process.
        world_weight: of the loss on a token of the world's, in [0, 1]; the agent's have 1. A
            model made from nothing has to learn to read before it can learn what to answer.
        learning_rate: the highest.
        schedule: how the learning rate falls after the warm-up; "warmup_stable_decay" holds it
            until the last three tenths of the steps and then falls in a line.
        warmup: share of the steps in which it rises.
        optimizer: "muon+adamw" is for tiny models.
        weight_decay: of AdamW and Muon.
        adam_beta2: of AdamW.
        max_gradient_norm: longer gradients are shortened to it.
        max_tokens: the most tokens of a trajectory.
        too_long: drop longer ones and count them, or stop.
        min_score: least final score of a trajectory; by default what its collection states.
        lora_rank: rank of LoRA adapters; 0 trains all weights.
        lora_alpha: their scale; by default twice the rank.
        template: chat template; by default the model's.
        prompts: own, published, brief or a TOML file; by default the model's.
        with_example: whether the worked example is shown; by default as the model says.
        world: whose prompt; by default the environment's own.
        vocab_size: of a tiny model, item codes not counted.
        dtype: in what the weights are held.
        device: such as cpu or cuda:1; by default a GPU if there is one.
        activation_checkpointing: compute activations twice to save memory.
        seed: of the order of trajectories and of new weights.
        save_every: steps between what a resumed run can start from; 0 for never.
        log_every: steps between logs.
        report_to: tensorboard, wandb or others that transformers knows.
    """

    data: tuple[Path, ...] = ()
    out: Path = Path("runs/sft")
    model: str = TINY
    epochs: float = 3.0
    batch_size: int = 64
    micro_batch_size: int = 8
    tokens_per_step: int = 0
    world_weight: float = 0.0
    learning_rate: float = 1e-5
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    optimizer: Literal["adamw", "muon+adamw"] = "adamw"
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_gradient_norm: float = 1.0
    max_tokens: int = 4096
    too_long: TooLong = "drop"
    min_score: float | None = None
    lora_rank: int = 0
    lora_alpha: int | None = None
    template: str | None = None
    prompts: str | None = None
    with_example: bool | None = None
    world: str | None = None
    vocab_size: int = 2000
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    activation_checkpointing: bool = False
    seed: int = 0
    save_every: int = 100
    log_every: int = 10
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingsError: a value is outside of its range.
        """
        for name in ("epochs", "batch_size", "micro_batch_size", "learning_rate", "log_every"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "lora_rank", "save_every", "tokens_per_step"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.world_weight <= 1:
            raise SettingsError(f"world_weight must be in [0, 1], got {self.world_weight}")
        if not 0 <= self.warmup < 1:
            raise SettingsError(f"warmup must be in [0, 1), got {self.warmup}")
        if self.batch_size % min(self.batch_size, self.micro_batch_size):
            raise SettingsError(
                f"batch_size {self.batch_size} must be a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )


def sft(settings: SFTSettings) -> dict[str, Any]:
    """Train on the trajectories of `settings.data`.

    Returns:
        What ``result.json`` has; of a complete stage what it had.

    Raises:
        DataNotFoundError: there are no trajectories, or no such model.
        EmptyDataError: none is to be trained on.
        StageMismatchError: the folder holds another stage.
        MissingExtraError: the extra ``train`` is not installed.
    """
    require("trl", extra="train")
    if not settings.data:
        raise EmptyDataError("no data: name folders of `eto collect`")
    inputs = {str(path): hash_input(path) for path in settings.data}
    if Path(settings.model).exists():
        inputs["model"] = hash_input(settings.model)
    with Stage(settings.out, settings, inputs) as stage:
        if stage.result is not None:
            return stage.result
        collections = [read_collection(p, min_score=settings.min_score) for p in settings.data]
        trajectories = [episode for part in collections for episode in part.kept]
        return train_on(trajectories, settings, stage)


def train_on(
    trajectories: Sequence[Trajectory], settings: SFTSettings, stage: Stage
) -> dict[str, Any]:
    """The rest of a stage whose trajectories have been chosen; see `sft`."""
    from eto_agents.training.trainer import forget_work, train

    start_s = time.monotonic()
    checkpoint = open_model(trajectories, settings)
    rows = build_rows(
        trajectories,
        checkpoint,
        max_tokens=settings.max_tokens,
        too_long=settings.too_long,
        world=settings.world,
    )
    trainer = train(checkpoint, rows, settings, stage)
    _save(trainer, checkpoint, stage)
    result = _result(trainer, rows, stage) | {"wall_s": round(time.monotonic() - start_s, 1)}
    stage.finish(result)
    forget_work(stage)
    return result


def open_model(trajectories: Sequence[Trajectory], settings: SFTSettings) -> Checkpoint:
    """The model that is trained: a named one, or a new tiny one.

    Raises:
        EmptyDataError: a tiny one is to be made of no trajectories.
    """
    kind, _, size = settings.model.partition(":")
    if kind == TINY and not Path(settings.model).exists():
        from eto_agents.models.tiny import make_tiny

        if not trajectories:
            raise EmptyDataError("no trajectories to make a tiny model from")
        prompts = settings.prompts or "brief"
        made = make_tiny(
            texts_of(trajectories, prompts=prompts, world=settings.world),
            size=size or "small",
            vocab_size=settings.vocab_size,
            template=settings.template or "plain",
            prompts=prompts,
            seed=settings.seed,
        )
        if settings.device is not None:
            made.model.to(settings.device)
    else:
        made = load_checkpoint(
            settings.model,
            dtype=settings.dtype,
            device=settings.device,
            template=settings.template,
        )
    return as_told(made, settings)


def as_told(checkpoint: Checkpoint, settings: SFTSettings) -> Checkpoint:
    """The checkpoint with the prompts that the settings name, if they name any."""
    chosen = {"prompts": settings.prompts, "with_example": settings.with_example}
    given = {name: value for name, value in chosen.items() if value is not None}
    return dataclasses.replace(checkpoint, **given)  # type: ignore[arg-type]


def _save(trainer: RowTrainer, checkpoint: Checkpoint, stage: Stage) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = gathered_weights(trainer)
    if stage.is_writer:
        trained = dataclasses.replace(checkpoint, model=model)
        save_checkpoint(trained, stage.checkpoint, weights=weights)
    trainer.accelerator.wait_for_everyone()


def _result(trainer: RowTrainer, rows: Rows, stage: Stage) -> dict[str, Any]:
    losses = [record["loss"] for record in stage.metrics()]
    model: Any = trainer.model
    parameters = list(model.parameters())
    return {
        "n_trajectories": len(rows.rows),
        "n_too_long": rows.n_too_long,
        "n_tokens": rows.n_tokens,
        "n_trained_tokens": rows.n_trained_tokens,
        "rows_sha256": rows.sha256,
        "n_parameters": sum(p.numel() for p in parameters),
        "n_trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "n_steps": trainer.state.global_step,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }
