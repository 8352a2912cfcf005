"""Settings: what training methods are configured by, and TOML files laid over them.

Frozen dataclasses are the only source of flags, defaults and help: `Optimisation` is what all
methods share, `FineTuning` what those on given data share, `Playing` what those that play share.
A name means the same everywhere: passes over the data are `epochs`, sequences a step `batch_size`
and computed at once `micro_batch_size`; a trajectory's tokens are `max_length` and a reply's
`max_new_tokens`; episodes at once are `n_envs` and episodes of a task `n_samples`. What is trained,
on what and where it goes are arguments of the methods, not settings. A value out of range is a
`SettingsError`. The command line makes flags of the dataclasses by itself (tyro).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from eto_envs.errors import (
    CorruptDataError,
    DataError,
    DataNotFoundError,
    EtoError,
    UnknownNameError,
)
from eto_envs.files import write_whole

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LRSchedule = Literal["cosine", "linear", "constant_with_warmup", "warmup_stable_decay"]
TooLong = Literal["drop", "error"]
Cut = Literal["rejected", "agent", "none"]
PairKind = Literal["trajectory", "step", "mixture", "self", "success"]

S = TypeVar("S")


class SettingsError(EtoError, ValueError):
    """A setting of the wrong type or out of range."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all settings have in common: each class checks its own ranges, then its parents'."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingsError: a value is out of range, or settings contradict each other.
        """


@dataclass(frozen=True, kw_only=True)
class Optimisation(Settings):
    """How weights are updated; shared by all training methods.

    Attributes:
        epochs: passes over the data (SFT, RFT, DPO) or over an update's episodes (PPO, GRPO).
        learning_rate: the peak of the schedule.
        weight_decay: of AdamW (and Muon).
        max_grad_norm: gradients are scaled down to this norm.
        save_every: steps between two states that an interrupted run can resume from; 0 saves none.
        dtype: data type of the weights; "auto" is as they are stored.
        device: such as cpu or cuda:1; by default a GPU if there is one.
        seed: of orders, sampling and new weights.
    """

    epochs: float = 3.0
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 100
    dtype: Dtype = "auto"
    device: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingsError: a value is out of range.
        """
        super().__post_init__()
        _check(
            self, positive=("epochs", "learning_rate"), not_negative=("weight_decay", "save_every")
        )


@dataclass(frozen=True, kw_only=True)
class FineTuning(Optimisation):
    """Training on given trajectories or pairs.

    Attributes:
        batch_size: trajectories (DPO: pairs) of an optimiser step, over all processes.
        lr_schedule: how the learning rate falls after the warm-up; "warmup_stable_decay" holds it
            until the last three tenths of the steps and then lets it fall linearly.
        warmup_ratio: share of the steps in which the learning rate rises, in [0, 1).
        max_length: the most tokens of a trajectory, prompt included.
        too_long: drop longer ones and count them, or stop with an error.
        lora_rank: train a LoRA adapter of this rank and merge it at the end; 0 trains all weights.
        activation_checkpointing: recompute activations in the backward pass to save memory.
    """

    batch_size: int = 64
    lr_schedule: LRSchedule = "cosine"
    warmup_ratio: float = 0.03
    max_length: int = 4096
    too_long: TooLong = "drop"
    lora_rank: int = 0
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("batch_size", "max_length"), not_negative=("lora_rank",))
        _check(self, below_1=("warmup_ratio",))


@dataclass(frozen=True, kw_only=True)
class Playing(Settings):
    """How an agent plays while it is trained.

    Attributes:
        env: the environment's id.
        dataset: mini, an official name, or a folder with the official files.
        split: the split whose tasks are played.
        n_tasks: only the first this many tasks of it.
        dev_tasks: tasks split off for tuning; they are never played in training.
        dev_seed: which ones.
        n_envs: episodes that are played at once.
        max_new_tokens: the most tokens of a reply.
        world: whose prompt; by default the one of the environment's world.
    """

    env: str = "ETO-WebShop-v0"
    dataset: str | None = None
    split: str = "train"
    n_tasks: int | None = None
    dev_tasks: int = 0
    dev_seed: int = 0
    n_envs: int = 64
    max_new_tokens: int = 512
    world: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("n_envs", "max_new_tokens"), not_negative=("dev_tasks",))

    @property
    def env_args(self) -> dict[str, Any]:
        """Keyword arguments for the environment, but for the split."""
        given = {"dataset": self.dataset, "shaping": getattr(self, "shaping", ()) or None}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SFT(FineTuning):
    """Behaviour cloning; the defaults are the paper's (section 4.1).

    Attributes:
        micro_batch_size: trajectories that a process computes at once.
        batch_tokens: if not 0, an optimiser step takes as many trajectories of similar length as
            have at most this many tokens with their padding, and `batch_size` does not count: long
            and short trajectories then weigh by their tokens. For one process.
        world_weight: weight of the loss on the environment's tokens, in [0, 1]; the agent's tokens
            have 1. A model trained from scratch has to learn to read before it can learn to act.
        optimizer: "muon+adamw" is for tiny models.
        adam_beta2: of AdamW.
        lora_alpha: scale of the LoRA adapter; by default twice the rank.
        template: the chat template; by default the model's.
        prompts: own, published, brief or a TOML file; by default the model's.
        with_example: whether the prompt has the worked example; by default as the model says.
        world: whose prompt; by default the one of the trajectories' world.
        vocab_size: of a tiny model's tokenizer, item codes not counted.
        log_every: steps between two lines of metrics.
        report_to: tensorboard, wandb or other trackers that transformers knows.
    """

    micro_batch_size: int = 8
    batch_tokens: int = 0
    world_weight: float = 0.0
    optimizer: Literal["adamw", "muon+adamw"] = "adamw"
    adam_beta2: float = 0.999
    lora_alpha: int | None = None
    template: str | None = None
    prompts: str | None = None
    with_example: bool | None = None
    world: str | None = None
    vocab_size: int = 2000
    log_every: int = 10
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges and what does not fit together."""
        super().__post_init__()
        _check(self, positive=("micro_batch_size", "log_every"), not_negative=("batch_tokens",))
        if not 0 <= self.world_weight <= 1:
            raise SettingsError(f"world_weight must be in [0, 1], got {self.world_weight}")
        if self.batch_size % min(self.batch_size, self.micro_batch_size):
            raise SettingsError(
                f"batch_size {self.batch_size} must be a multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class RFT(Playing, SFT):
    """Rejection-sampling fine-tuning: SFT's settings, and how episodes are sampled.

    Attributes:
        n_samples: episodes of each task.
        max_tasks: at most this many tasks, drawn by the seed; then the expert's trajectories are
            those of the same tasks. By default all.
        temperature: at which replies are sampled, above 0.
        min_score: the least final score of a sampled episode to learn from, in [0, 1].
    """

    n_samples: int = 4
    max_tasks: int | None = None
    temperature: float = 1.0
    min_score: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        # At temperature 0 all episodes of a task would be alike.
        _check(self, positive=("n_samples", "temperature"))
        if not 0 <= self.min_score <= 1:
            raise SettingsError(f"min_score must be in [0, 1], got {self.min_score}")


@dataclass(frozen=True, kw_only=True)
class DPO(FineTuning):
    """Trajectory DPO; the defaults are the paper's (section 4.1 of its second version).

    Attributes:
        beta: strength of the KL penalty to the reference policy (the paper: 0.1, ALFWorld 0.5).
        nll_weight: weight of the chosen side's NLL beside the DPO loss (RPO); ETO has none.
        micro_batch_tokens: the most tokens, padding included, that are computed at once; a batch of
            `batch_size` pairs is split so that they fit. It changes speed, not results (but for the
            NLL term, a mean over the tokens of each part).
        alarm_nats: a warning is logged when the chosen trajectories' mean log-probability has
            fallen by more than this.
        world: whose prompt; by default the one of the trajectories' world.
    """

    learning_rate: float = 1e-6
    batch_size: int = 32
    beta: float = 0.1
    nll_weight: float = 0.0
    micro_batch_tokens: int = 16384
    alarm_nats: float = 5.0
    world: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("beta", "micro_batch_tokens"))
        _check(self, not_negative=("nll_weight", "alarm_nats"))


@dataclass(frozen=True, kw_only=True)
class _OnPolicy(Playing, Optimisation):
    """What PPO and GRPO share: they learn from episodes of the policy of the moment.

    Attributes:
        n_updates: times that episodes are played and learned from.
        n_episodes: episodes an update.
        clip: how far a token's probability ratio counts.
        kl_weight: strength of the KL penalty to the SFT policy, a nat; 0 keeps no reference.
        shaping: reward shapers by name, such as terminal_only or step_cost=0.01.
    """

    epochs: int = 2
    learning_rate: float = 1e-6
    save_every: int = 5
    n_updates: int = 20
    n_episodes: int = 64
    clip: float = 0.2
    kl_weight: float = 0.05
    shaping: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("n_updates", "n_episodes", "clip"), not_negative=("kl_weight",))


@dataclass(frozen=True, kw_only=True)
class PPO(_OnPolicy):
    """PPO on whole episodes.

    Attributes:
        n_minibatches: optimiser steps in an epoch.
        value_learning_rate: of the value head.
        value_clip: how far a value may move in an update; None does not clip.
        value_weight: weight of the value loss; the head alone learns from it.
        gamma: discount from token to token, in [0, 1].
        lam: GAE's lambda, in [0, 1].
        micro_batch_tokens: the most tokens, padding included, that are computed at once.
        max_sampling_gap: the most that log-probabilities as sampled and as computed in training
            may differ on average, in nats a token.
    """

    n_minibatches: int = 4
    value_learning_rate: float = 1e-3
    value_clip: float | None = None
    value_weight: float = 1.0
    gamma: float = 1.0
    lam: float = 0.95
    micro_batch_tokens: int = 16384
    max_sampling_gap: float = 0.05

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("n_minibatches", "micro_batch_tokens"))
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class GRPO(_OnPolicy):
    """GRPO on whole episodes, through TRL.

    Attributes:
        n_samples: episodes of a task, which are compared with each other.
    """

    epochs: int = 1
    n_samples: int = 8

    def __post_init__(self) -> None:
        """Check the ranges and what does not fit together."""
        super().__post_init__()
        if self.n_samples < 2 or self.n_episodes % self.n_samples:
            raise SettingsError(
                f"n_episodes {self.n_episodes} must be a multiple of n_samples {self.n_samples}, "
                "which is at least 2"
            )


@dataclass(frozen=True, kw_only=True)
class ETO(Playing):
    """Exploration-based trajectory optimisation: how the agent explores, pairs and learns.

    Attributes:
        iterations: times that the agent explores and learns (the paper: 2, ALFWorld 1).
        n_samples: episodes of each task in an exploration. ETO plays one.
        temperature: of the exploration; 0 is greedy, as in ETO's script.
        max_tasks: at most this many tasks an iteration, drawn again for each; by default all. It
            holds for step-wise pairs, too, for which nothing is played.
        pairs: what is compared with what: with the expert, whole trajectories, single steps or
            both; or the agent's own episodes of a task with each other, any two of different
            reward or only a success with a failure.
        cut: which rejected trajectories may be too long (`eto_agents.training.pairs`).
        extra_rounds: how many rounds longer than the chosen one a rejected one may be.
        max_pairs_per_task: of pairs without an expert.
        keep_best: the result is the iteration (the start among them) that is best on the dev tasks;
            otherwise the last.
        dpo: how it learns from pairs.
        later_beta: beta from the second iteration on; ETO's script has 0.5.
        later_learning_rate: DPO's learning rate from then on; the script has half the first.
        seed: of sampling and orders.
    """

    iterations: int = 2
    n_samples: int = 1
    temperature: float = 0.0
    max_tasks: int | None = None
    pairs: PairKind = "trajectory"
    cut: Cut = "rejected"
    extra_rounds: int = 5  # `len(golden_trajs[key]) + 5*2` messages in ETO's builder
    max_pairs_per_task: int | None = 1
    keep_best: bool = False
    dpo: DPO = field(default_factory=DPO)
    later_beta: float | None = None
    later_learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges and what does not fit together."""
        super().__post_init__()
        _check(self, positive=("n_samples",), not_negative=("iterations", "temperature"))
        if self.keep_best and not self.dev_tasks:
            raise SettingsError("keep_best needs dev_tasks to choose on, never seen or unseen")
        if self.pairs in ("self", "success") and self.n_samples < 2:
            raise SettingsError(f"pairs={self.pairs!r} compares episodes: n_samples of 2 or more")
        if self.n_samples > 1 and not self.temperature:
            raise SettingsError("several episodes a task are all alike at temperature 0")


def _check(
    settings: Any,
    positive: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
    below_1: tuple[str, ...] = (),
) -> None:
    for name in positive:
        if not getattr(settings, name) > 0:
            raise SettingsError(f"{name} must be above 0, got {getattr(settings, name)}")
    for name in not_negative:
        if not getattr(settings, name) >= 0:
            raise SettingsError(f"{name} must be at least 0, got {getattr(settings, name)}")
    for name in below_1:
        if not 0 <= getattr(settings, name) < 1:
            raise SettingsError(f"{name} must be in [0, 1), got {getattr(settings, name)}")


def read_toml_file(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if not path.is_file():
        raise DataNotFoundError(f"no settings file at {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptDataError(f"{path} is not TOML ({error})") from error


def overlay(default: S, record: Mapping[str, Any], source: str = "settings") -> S:
    """Values by name over those of `default`; `source` is for error messages.

    Raises:
        UnknownNameError: a name is no field.
        SettingsError: a value is not of its field's type.
    """
    types_by_name = typing.get_type_hints(type(default))
    values = {}
    for key, value in record.items():
        name = key.replace("-", "_")
        if name not in types_by_name:
            raise UnknownNameError(f"setting in {source}:", key, types_by_name)
        values[name] = _fit(value, types_by_name[name], f"{source}: {key}")
    return dataclasses.replace(default, **values)  # type: ignore[type-var]


def record_of(settings: Any) -> dict[str, Any]:
    """A dataclass or a mapping as JSON-able values."""
    values = dict(settings) if isinstance(settings, Mapping) else dataclasses.asdict(settings)
    record: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return record


def key_values(texts: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` texts as a dict; values are JSON where they parse as such.

    Raises:
        UnknownNameError: a text has no ``=``.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UnknownNameError("argument", text, (), "Write KEY=VALUE.")
        try:
            pairs[key] = json.loads(value)
        except ValueError:
            pairs[key] = value
    return pairs


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole, indented."""
    write_whole(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        CorruptDataError: it is not a JSON object; names the line.
        DataError: it cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CorruptDataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"{path} is not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not isinstance(record, dict):
        raise CorruptDataError(f"{path} is not a JSON object")
    return record


def _fit(value: Any, wanted: Any, where: str) -> Any:
    """A TOML value as a field's type: number, text, path, choice, list or table."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _fit(value, next(part for part in inner if part is not type(None)), where)
    if origin is typing.Literal:
        if value not in inner:
            raise SettingsError(f"{where} must be one of {list(inner)}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{where} must be a list, got {value!r}")
        return tuple(_fit(part, inner[0], where) for part in value)
    if origin is Mapping:
        wanted = dict
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise SettingsError(f"{where} must be {wanted.__name__}, got {value!r}")
    return value
