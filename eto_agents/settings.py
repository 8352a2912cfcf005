"""Settings of the training methods, and the values that files and flags give them.

Frozen dataclasses are the only source of flags, defaults and help texts; the command line derives
its flags from them (tyro). `Optimisation` is shared by all methods, `FineTuning` by the methods
that train on given data, `Playing` by the methods that play episodes.

A name means the same everywhere: `epochs` are passes over the data, `batch_size` is the number of
sequences per optimiser step and `micro_batch_size` the number computed at once; `max_length` bounds
the tokens of a trajectory and `max_new_tokens` those of a reply; `n_envs` episodes are played at
once, `n_samples` of each task. The model, the data and the output folder are arguments of the
methods, not settings. A value out of range raises `SettingsError`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from eto_agents.strict_json import json_text
from eto_envs.errors import EtoError, UnknownNameError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LRSchedule = Literal["cosine", "linear", "constant_with_warmup", "warmup_stable_decay"]
TooLong = Literal["drop", "error"]
Cut = Literal["rejected", "agent", "none"]
PairKind = Literal["trajectory", "step", "mixture", "self", "success"]
ProtocolName = Literal["thought", "tool"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]

S = TypeVar("S")


class SettingsError(EtoError, ValueError):
    """A setting has the wrong type or is out of range."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all settings. Each class checks its parents' ranges, then its own."""

    def __post_init__(self) -> None:
        """Check that all numbers are finite: no range below says so of infinity or NaN.

        Raises:
            SettingsError: a value is out of range, or settings contradict each other.
        """
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{each.name} must be a finite number, got {value}")


@dataclass(frozen=True, kw_only=True)
class Optimisation(Settings):
    """How weights are updated; shared by all training methods.

    Attributes:
        epochs: Passes over the data (SFT, RFT, DPO) or over the episodes of an update (PPO, GRPO).
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of the optimiser.
        max_grad_norm: Gradients are clipped to this norm.
        save_every: Optimiser steps (PPO, GRPO: updates) between two saved states, from which an
            interrupted run resumes; 0 saves none.
        dtype: Data type of the weights; auto is the type in which they are stored.
        device: Device to train on, such as cpu or cuda:1; a GPU by default if there is one.
        seed: Seed of the data order, of sampling and of newly initialised weights.
        report_to: Experiment trackers that receive the metrics.
    """

    epochs: float = 3.0
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 100
    dtype: Dtype = "auto"
    device: str | None = None
    seed: int = 0
    report_to: tuple[Tracker, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingsError: a value is out of range.
            UnknownNameError: there is no such tracker.
        """
        super().__post_init__()
        _check(
            self, positive=("epochs", "learning_rate"), not_negative=("weight_decay", "save_every")
        )
        check_trackers(self.report_to)


@dataclass(frozen=True, kw_only=True)
class FineTuning(Optimisation):
    """Training on given trajectories or pairs.

    Attributes:
        batch_size: Trajectories (DPO: pairs) per optimiser step, over all processes.
        lr_schedule: Shape of the learning rate after the warm-up. The schedule warmup_stable_decay
            keeps it constant, then decays it linearly over the last 30 % of the steps.
        warmup_ratio: Share of the steps over which the learning rate warms up, in [0, 1).
        max_length: Maximum number of tokens of a trajectory, prompt included.
        too_long: What to do with longer trajectories: drop and count them, or stop with an error.
        lora_rank: Rank of a LoRA adapter to train; 0 trains all weights. SFT and RFT save the
            adapter, DPO merges it into the model.
        activation_checkpointing: Recompute activations in the backward pass to save memory.
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
        env: Environment id, such as ETO-WebShop-v0.
        dataset: Dataset of the environment: mini, an official name such as full, or a folder that
            holds the official files. By default the official data if downloaded, else mini.
        split: Split whose tasks are played.
        n_tasks: Play only the first N tasks of the split. By default all.
        dev_tasks: Number of tasks to hold out of the split as a development set; training never
            plays them.
        dev_seed: Seed that selects the development tasks.
        n_envs: Number of episodes played at once.
        max_new_tokens: Maximum number of tokens in a reply.
        world: World whose prompt the agent gets; by default the environment's.
        protocol: How the agent acts: thought for "Thought: … Action: …" as in ETO, tool for calls
            of the tool act; by default as the model was trained, else thought.
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
    protocol: ProtocolName | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("n_envs", "max_new_tokens"), not_negative=("dev_tasks",))

    @property
    def env_args(self) -> dict[str, Any]:
        """Keyword arguments for the environment, except for the split."""
        given = {"dataset": self.dataset, "shaping": getattr(self, "shaping", ()) or None}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class SFT(FineTuning):
    """Behaviour cloning; the defaults are the paper's (section 4.1).

    Attributes:
        micro_batch_size: Trajectories that a process computes at once.
        batch_tokens: If not 0, fill each optimiser step with trajectories of similar length up to
            this many tokens, padding included, in place of `batch_size` trajectories. Long
            trajectories then count in proportion to their tokens. Single process only.
        world_weight: Weight of the loss on the environment's tokens, in [0, 1]; the agent's tokens
            have weight 1. A model trained from scratch needs it: it has to learn to read before it
            can learn to act.
        optimizer: Optimiser; muon+adamw is meant for tiny models.
        adam_beta2: Second-moment decay rate (beta2) of AdamW.
        lora_alpha: Scale of the LoRA adapter; by default twice the rank.
        template: Chat template, by name; by default the model's.
        prompts: Prompts of the agent: own, published, brief or a TOML file. By default the model's.
        with_example: Whether the prompt contains the worked example; by default as stored with the
            model.
        world: World whose prompt the agent gets; by default the world of the trajectories.
        protocol: How the agent is to act: thought for "Thought: … Action: …" as in ETO, tool for
            calls of the tool act; by default as in the trajectories, else as the model was trained.
            Trajectories without calls, such as an expert's, are rewritten as calls for tool.
        vocab_size: Vocabulary size of a new tiny model's tokenizer, not counting item codes.
        log_every: Optimiser steps between two lines of metrics.
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
    protocol: ProtocolName | None = None
    vocab_size: int = 2000
    log_every: int = 10

    def __post_init__(self) -> None:
        """Check the ranges, and that the batch sizes fit each other."""
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
class PlayingOnServer(Playing):
    """How an agent plays in this process, or on a server.

    Attributes:
        explore_with: Server that plays: openai:NAME, which has to serve the current checkpoint
            (vllm serve FOLDER; PPO and GRPO: with the flags that the documentation names, so that
            weights can be sent to it). By default this process, or Ray's actors.
        explore_args: Further arguments for the server, such as base_url=http://localhost:8000/v1;
            values are JSON or plain text.
    """

    explore_with: str | None = None
    explore_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        key_values(self.explore_args)


@dataclass(frozen=True, kw_only=True)
class Exploring(PlayingOnServer):
    """How an agent plays to collect episodes of its own.

    Attributes:
        ray: Play on a Ray cluster: local for one on this machine, or an address such as auto; all
            machines must see the model's folder. Episodes are the same as without.
        ray_actors: Number of Ray actors, each with the model and n-envs episodes at once. By
            default one per GPU of the cluster, or per core if it has none.
    """

    ray: str | None = None
    ray_actors: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.ray_actors is not None:
            _check(self, positive=("ray_actors",))


@dataclass(frozen=True, kw_only=True)
class RFT(Exploring, SFT):
    """Rejection-sampling fine-tuning: the settings of SFT, and how episodes are sampled.

    Attributes:
        n_samples: Episodes to sample for each task.
        max_tasks: Maximum number of tasks, drawn at random; expert trajectories of other tasks are
            then left out as well. By default all.
        temperature: Sampling temperature of the replies, above 0.
        min_score: Minimum final score, in [0, 1], of a sampled episode to train on.
    """

    n_samples: int = 4
    max_tasks: int | None = None
    temperature: float = 1.0
    min_score: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        # At temperature 0 all episodes of a task would be the same.
        _check(self, positive=("n_samples", "temperature"))
        if not 0 <= self.min_score <= 1:
            raise SettingsError(f"min_score must be in [0, 1], got {self.min_score}")


@dataclass(frozen=True, kw_only=True)
class DPO(FineTuning):
    """Trajectory DPO; the defaults are the paper's (section 4.1 of its second version).

    Attributes:
        beta: Strength of the KL penalty to the reference policy (the paper: 0.1, ALFWorld 0.5).
        nll_weight: Weight of an additional NLL loss on the chosen trajectory (RPO); ETO uses none.
        preference_weight: Weight of the preference loss. At 0 only the NLL loss is left: imitation
            of the chosen trajectories, as a control.
        micro_batch_tokens: Maximum number of tokens, padding included, that are computed at once; a
            batch of `batch_size` pairs is split accordingly. It changes speed and memory, not
            results (except for the NLL term, which is a mean over each part's tokens).
        alarm_nats: Log a warning when the mean log-probability of the chosen trajectories has
            fallen by more than this many nats.
        world: World whose prompt the agent gets; by default the world of the trajectories.
    """

    learning_rate: float = 1e-6
    batch_size: int = 32
    beta: float = 0.1
    nll_weight: float = 0.0
    preference_weight: float = 1.0
    micro_batch_tokens: int = 16384
    alarm_nats: float = 5.0
    world: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("beta", "micro_batch_tokens"))
        _check(self, not_negative=("nll_weight", "preference_weight", "alarm_nats"))
        if not self.preference_weight + self.nll_weight:
            raise SettingsError("preference_weight and nll_weight must not both be 0")


@dataclass(frozen=True, kw_only=True)
class _OnPolicy(PlayingOnServer, Optimisation):
    """Shared by PPO and GRPO, which learn from episodes of the current policy.

    Attributes:
        n_updates: Number of updates; each plays episodes and learns from them.
        n_episodes: Episodes per update.
        clip: Clipping range of a token's probability ratio.
        kl_weight: Strength of the KL penalty to the initial policy, per nat; 0 needs no reference
            model.
        shaping: Reward shapers by name, such as terminal_only or step_cost=0.01.
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
        n_minibatches: Optimiser steps per epoch, each on episodes drawn at random.
        target_kl: Ends an update early once the policy has moved by more than this many nats per
            token since its episodes were played; None does not.
        value_ridge: Penalty of the value head's ridge regression, relative to the mean square of
            the features.
        gamma: Discount from token to token, in [0, 1].
        lam: Lambda of generalised advantage estimation (GAE), in [0, 1]. It applies to each token,
            so with a reward at the end of an episode of 126 tokens, 0.95 would leave the first one
            0.2 % of it.
        micro_batch_tokens: Maximum number of tokens, padding included, that are computed at once.
        max_sampling_gap: Maximum mean difference, in nats per token, between log-probabilities as
            sampled and as recomputed in training; a larger one stops the run.
    """

    epochs: int = 4
    n_minibatches: int = 4
    target_kl: float | None = 0.05
    value_ridge: float = 1.0
    gamma: float = 1.0
    lam: float = 1.0
    micro_batch_tokens: int = 16384
    max_sampling_gap: float = 0.05

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        _check(self, positive=("n_minibatches", "micro_batch_tokens", "value_ridge"))
        if self.target_kl is not None:
            _check(self, positive=("target_kl",))
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} must be in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class GRPO(_OnPolicy):
    """GRPO on whole episodes, through TRL.

    Attributes:
        micro_batch_size: Maximum number of episodes that a process computes at once; it changes
            speed and memory, not results.
        n_samples: Group size: episodes of a task that are compared with each other, at least 2.
    """

    epochs: int = 1
    micro_batch_size: int = 8
    n_samples: int = 8

    def __post_init__(self) -> None:
        """Check the ranges, and that the groups fill an update."""
        super().__post_init__()
        _check(self, positive=("micro_batch_size",))
        if self.n_samples < 2 or self.n_episodes % self.n_samples:
            raise SettingsError(
                f"n_episodes {self.n_episodes} must be a multiple of n_samples {self.n_samples}, "
                "which is at least 2"
            )


@dataclass(frozen=True, kw_only=True)
class ETO(Exploring):
    """Exploration-based trajectory optimisation: how the agent explores, pairs and learns.

    Attributes:
        iterations: Number of iterations; each explores and learns (the paper: 2, ALFWorld 1).
        n_samples: Episodes of each task in an exploration; ETO plays one.
        temperature: Sampling temperature of the exploration; 0 is greedy, as in ETO's script.
        max_tasks: Maximum number of tasks per iteration, drawn at random for each iteration; by
            default all. It also applies to step-wise pairs, for which nothing is played.
        pairs: How pairs are made. With the expert: from whole trajectories, single steps, or both
            (mixture). Without an expert, from the agent's episodes of a task: any two with
            different rewards (self), or a success and a failure (success).
        cut: Which rejected trajectories are shortened if they are much longer than the chosen one:
            all of them (rejected), only the agent's (agent), or none.
        extra_rounds: Rounds by which a rejected trajectory may exceed the chosen one before it is
            shortened.
        max_pairs_per_task: Maximum number of pairs per task that are made without an expert.
        keep_best: Return the iteration with the best score on the development tasks (the initial
            policy included) instead of the last one.
        dpo: Settings of the DPO stage.
        later_beta: DPO's beta from the second iteration on; ETO's script uses 0.5.
        later_learning_rate: DPO's learning rate from the second iteration on; ETO's script uses
            half of the first.
        seed: Seed of sampling and of the data order.
        report_to: Experiment trackers that receive the scores of the iterations and the metrics of
            every DPO stage.
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
    report_to: tuple[Tracker, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges, and that the settings fit each other."""
        super().__post_init__()
        _check(self, positive=("n_samples",), not_negative=("iterations", "temperature"))
        check_trackers(self.report_to)
        if self.keep_best and not self.dev_tasks:
            raise SettingsError(
                "keep_best needs dev_tasks: the best iteration is selected on a development set, "
                "never on seen or unseen"
            )
        if self.pairs in ("self", "success") and self.n_samples < 2:
            raise SettingsError(
                f"pairs={self.pairs!r} compares episodes of one task and needs n_samples of at "
                f"least 2, got {self.n_samples}"
            )
        if self.n_samples > 1 and not self.temperature:
            raise SettingsError(
                f"n_samples={self.n_samples} needs a temperature above 0: at 0 all episodes of a "
                "task are the same"
            )


def check_trackers(names: Sequence[str]) -> None:
    """Check that all names are experiment trackers.

    Raises:
        UnknownNameError: there is no such tracker.
    """
    for name in names:
        if name not in (known := typing.get_args(Tracker)):
            raise UnknownNameError("tracker", name, known)


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


def overlay(default: S, record: Mapping[str, Any], source: str = "settings") -> S:
    """Replace fields of `default` by the values of `record`.

    Args:
        default: A dataclass.
        record: Values by field name; hyphens count as underscores.
        source: Where the values come from, for error messages.

    Raises:
        UnknownNameError: a name is not a field.
        SettingsError: a value does not have its field's type, or is out of range.
    """
    types_by_name = typing.get_type_hints(type(default))
    values = {}
    for key, value in record.items():
        name = key.replace("-", "_")
        if name not in types_by_name:
            raise UnknownNameError(f"setting in {source}:", key, types_by_name)
        values[name] = _convert(value, types_by_name[name], f"{source}: {key}")
    try:
        return dataclasses.replace(default, **values)  # type: ignore[type-var]
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from error


def record_of(settings: Any) -> dict[str, Any]:
    """Convert a dataclass or a mapping to JSON-able values."""
    values = dict(settings) if isinstance(settings, Mapping) else dataclasses.asdict(settings)
    record: dict[str, Any] = json.loads(json_text(values, default=str))
    return record


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten mappings into dotted keys: ``beta`` below ``dpo`` becomes ``dpo.beta``."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def key_values(texts: tuple[str, ...]) -> dict[str, Any]:
    """Parse ``key=value`` texts; values are parsed as JSON where possible, else taken as text.

    Raises:
        UnknownNameError: a text has no ``=``.
        SettingsError: a key is given twice.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UnknownNameError("argument", text, (), "Write KEY=VALUE.")
        if key in pairs:
            raise SettingsError(f"{key} is given more than once")
        try:
            pairs[key] = json.loads(value)
        except (ValueError, RecursionError):
            pairs[key] = value
    return pairs


def _convert(value: Any, expected: Any, where: str) -> Any:
    """Convert a TOML value to a field's type: number, text, path, choice, list or table."""
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _convert(value, next(part for part in inner if part is not type(None)), where)
    if origin is typing.Literal:
        if value not in inner:
            raise SettingsError(f"{where} must be one of {list(inner)}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(part, inner[0], where) for part in value)
    if origin is Mapping:
        expected = dict
    if expected is Path and isinstance(value, str):
        return Path(value)
    if expected is float and type(value) is int:
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    if type(value) is not expected:
        raise SettingsError(f"{where} must be {expected.__name__}, got {value!r}")
    return value
