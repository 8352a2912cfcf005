"""Trajectory DPO as a stage: pairs and a policy in, a policy that tells them apart better out.

ETO section 3.2, equation 6: the loss is DPO's with the log-probabilities of whole trajectories,
summed over the agent's tokens; the reference is the policy as it is when the stage begins. Settings
and the stage's folder are here, the loop is TRL's (`eto_agents.training.dpo_trainer`).

Where the paper (second version) and its repository (``run_eto.sh``) disagree: the paper names a
cosine with 3 % warm-up, for SFT, which is the default here too, and beta 0.1 (ALFWorld 0.5); the
script's DPO has a constant learning rate after 10 % warm-up, and from the second iteration on beta
0.5 and half the learning rate.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eto_agents.console import report
from eto_agents.models.checkpoints import load_checkpoint, save_checkpoint
from eto_agents.preference import read_pairs
from eto_agents.training.preference_rows import PreferenceRows, encode_pairs
from eto_agents.training.rows import TooLong
from eto_agents.training.stage import Stage, hash_input
from eto_envs.errors import EtoError, require

if TYPE_CHECKING:
    from eto_agents.preference import PreferencePair
    from eto_agents.training.pairs import Pair


class DivergedError(EtoError):
    """The loss is not finite; the batch was saved."""


class WrongReferenceError(EtoError):
    """The reference is not the policy that training begins with."""


@dataclass(frozen=True)
class DPOSettings:
    """How trajectory DPO trains; the defaults are ETO's (section 4.1 of its second version).

    Attributes:
        beta: how dear it is to leave the reference (the paper: 0.1, ALFWorld 0.5).
        learning_rate: at the top of the schedule.
        n_epochs: times every pair is seen.
        batch_size: pairs for an update.
        nll_weight: weight of the chosen side's NLL beside the DPO loss (RPO); ETO has none.
        warmup_share: share of the updates in which the learning rate rises, in [0, 1).
        schedule: how it falls afterwards.
        weight_decay: AdamW's.
        max_grad_norm: gradients are scaled down to this norm.
        tokens_per_batch: the most tokens, padding included, that go through the model at once; a
            batch of `batch_size` pairs is split so that they fit. It
            changes speed, not results (but for the NLL term, a mean over the tokens of each part).
        lora_rank: train a LoRA adapter of this rank and merge it at the end; 0 trains all weights.
        activation_checkpointing: compute activations twice to save memory.
        save_every: updates between two states a killed run can go on from; 0 saves none.
        alarm_nats: a warning is logged when the chosen trajectories' mean log-probability has
            fallen below its start by more than this.
        max_tokens: the most tokens a side of a pair has, prompt included.
        too_long: drop pairs with a longer side and count them, or stop.
        dtype: in what the weights are held.
        device: such as cpu or cuda:1; by default a GPU if there is one.
        seed: of the order of the pairs.
    """

    beta: float = 0.1
    learning_rate: float = 1e-6
    n_epochs: float = 3.0
    batch_size: int = 32
    nll_weight: float = 0.0
    warmup_share: float = 0.03
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    tokens_per_batch: int = 16384
    lora_rank: int = 0
    activation_checkpointing: bool = False
    save_every: int = 100
    alarm_nats: float = 5.0
    max_tokens: int = 4096
    too_long: TooLong = "drop"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a value is outside of its range.
        """
        for name in ("beta", "learning_rate", "n_epochs", "batch_size", "tokens_per_batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("nll_weight", "lora_rank", "save_every", "alarm_nats"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share must be in [0, 1), got {self.warmup_share}")


@dataclass(frozen=True, kw_only=True)
class DPORun(DPOSettings):
    """What `dpo` is told, beside how it trains.

    Attributes:
        pairs: a file of pairs (`eto_agents.preference`).
        model: the policy, a checkpoint's folder or name.
        out: the stage's folder.
    """

    pairs: Path
    model: str
    out: Path


def n_updates(n_pairs: int, settings: DPOSettings) -> int:
    """How many updates a run over so many pairs makes: for a control with as many on other data."""
    return math.ceil(math.ceil(n_pairs / settings.batch_size) * settings.n_epochs)


def dpo(run: DPORun) -> dict[str, Any]:
    """Train on the pairs of a file; see `dpo_stage`.

    Raises:
        DataNotFoundError: no such file or model.
    """
    inputs = {"pairs": hash_input(run.pairs)}
    return dpo_stage(run.out, run.model, read_pairs(run.pairs), run, inputs)


def dpo_stage(
    folder: Path,
    model: str,
    pairs: Iterable[Pair | PreferencePair],
    settings: DPOSettings,
    inputs: Mapping[str, str],
    *,
    world: str | None = None,
) -> dict[str, Any]:
    """Train a checkpoint on pairs in a stage's folder.

    Args:
        folder: the stage's; a call that was killed goes on.
        model: the policy to begin with, which is the reference.
        pairs: what to learn from; read only if the stage is not complete.
        settings: how.
        inputs: hashes of what the pairs come from; the model's is added.
        world: whose prompt; by default the one the trajectories tell.

    Returns:
        What ``result.json`` has; of a complete stage what it had.

    Raises:
        NoPairsError: nothing is left to train on.
        DivergedError: the loss is not finite.
        StageMismatchError: the folder holds a stage with other settings, pairs or model.
        MissingExtraError: the extra ``train`` is not installed.
    """
    require("trl", extra="train")
    hashes = dict(inputs) | ({"model": hash_input(model)} if Path(model).exists() else {})
    with Stage(folder, settings, hashes) as stage:
        if stage.result is not None:
            return stage.result
        from eto_agents.training.dpo_trainer import train_dpo

        started_s = time.monotonic()
        checkpoint = load_checkpoint(model, dtype=settings.dtype, device=settings.device)
        data = encode_pairs(
            pairs,
            checkpoint,
            max_tokens=settings.max_tokens,
            too_long=settings.too_long,
            world=world,
        )

        n_planned = n_updates(len(data.rows), settings)

        def log(update: int, metrics: Mapping[str, float]) -> None:
            stage.log({"step": update, **metrics})
            if stage.is_writer:
                names = {"loss": "loss", "accuracy": "rewards/accuracies"}
                shown = {k: f"{metrics[v]:.3f}" for k, v in names.items() if v in metrics}
                report(folder.name, update, n_planned, "updates", shown)

        if stage.is_writer:
            report(folder.name, 0, n_planned, "updates")
        trained = train_dpo(
            checkpoint, data, settings, stage.work, on_metrics=log, on_start=stage.rewind
        )
        if not stage.is_writer:
            stage.wait()
            return stage.result or {}
        save_checkpoint(trained.checkpoint, stage.checkpoint, weights=trained.weights)
        result = _result(stage, data, settings)
        result["wall_s"] = round(time.monotonic() - started_s, 1)
        stage.finish(result)
        shutil.rmtree(stage.work, ignore_errors=True)
        return result


def _result(stage: Stage, data: PreferenceRows, settings: DPOSettings) -> dict[str, Any]:
    last = [m for m in stage.metrics() if "rewards/accuracies" in m][-1:] or [{}]
    return {
        "n_pairs": len(data.rows),
        "n_too_long": data.n_too_long,
        "n_tokens": data.n_tokens,
        "rows_sha256": data.sha256,
        "n_updates": n_updates(len(data.rows), settings),
        "accuracy": last[0].get("rewards/accuracies"),
        "margin": last[0].get("rewards/margins"),
        "chosen_drop_nats": last[0].get("chosen_drop_nats"),
    }
