"""Tiers: what a reproduction trains, on what, with which numbers; all of it in one TOML file.

A tier's file has a section for each stage (``[sft]``, ``[dpo]`` …) that holds for every world, and
under ``[worlds.NAME]`` what a world has of its own, with sections of the same names that win. A
setting of the command line, ``sft.epochs=3`` or ``alfworld.sft.epochs=3``, wins over both. A file
that begins with ``like = "cpu"`` has what that tier has but for its own top-level keys. Sections
are read into the stages' own frozen dataclasses (`eto_agents.training`), so their names, defaults
and checks are the stages'. Running a tier is `eto_agents.reproduce.tracks`' part.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from eto_agents.config import SettingsError, overlay, read_toml_file
from eto_agents.policies.thoughts.narrator import Style
from eto_agents.training.dpo import DPOSettings
from eto_agents.training.eto import ETOSettings, Exploration
from eto_agents.training.ppo import PPORun
from eto_agents.training.rft import RFTSettings
from eto_agents.training.sft import TINY, SFTSettings
from eto_envs.errors import DataNotFoundError, UnknownNameError

METHODS: Final[Mapping[str, str]] = {
    "base": "untuned",
    "sft": "SFT",
    "sft-more": "SFT-more",
    "best-of-n": "Best-of-N",
    "rft": "RFT",
    "ppo": "PPO",
    "eto": "ETO",
}
"""What can be a row of the table, in its order, and the row's label."""

_BY_STAGE: Final = frozenset(
    {
        *("data", "out", "model", "seed", "env", "dataset", "split", "world", "explorer"),
        *("n_tasks", "lockstep", "max_turn_tokens", "max_new_tokens", "device", "dtype"),
        *("template", "prompts", "with_example", "vocab_size", "config", "report_to"),
        *("explore", "dpo"),
    }
)
"""Settings of stages that follow from other sections, such as ``[model]`` and ``[expert]``."""


@dataclass(frozen=True)
class World:
    """Where is played.

    Attributes:
        env: environment id.
        dataset: mini, an official name, or a folder with the official files.
        prompt: whose prompt; by default what the environment tells.
        n_rounds: how often as many train tasks a mini dataset gets as it has. Those of a further
            round are in rooms of their own (ALFWorld), or ask in other words for other options of
            the same products (WebShop). Seen and unseen stay as they are.
    """

    env: str = ""
    dataset: str = "auto"
    prompt: str | None = None
    n_rounds: int = 1


@dataclass(frozen=True)
class Model:
    """What is trained, and how it is spoken to.

    Attributes:
        name: a checkpoint's folder or name, or "tiny:SIZE" for a new one.
        vocab_size: of a tiny one, item codes not counted.
        template: chat template; by default the model's.
        prompts: own, published, brief or a TOML file; by default the model's.
        with_example: whether the worked example is shown; by default as the model says.
        dtype: in what the weights are held.
        device: such as cpu or cuda:1; by default a GPU if there is one.
        lockstep: episodes that are played at once.
        max_turn_tokens: the most tokens of a turn.
        rft_begins_with: what RFT fine-tunes: the model that SFT began with, as in the paper, or
            SFT's own, which spares a model made from nothing to learn everything twice.
    """

    name: str = "tiny:small"
    vocab_size: int = 2000
    template: str | None = None
    prompts: str | None = None
    with_example: bool | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    lockstep: int = 64
    max_turn_tokens: int = 512
    rft_begins_with: Literal["base", "sft"] = "base"

    @property
    def is_tiny(self) -> bool:
        """Whether it is made, not read."""
        return self.name.partition(":")[0] == TINY and not Path(self.name).exists()


@dataclass(frozen=True)
class Expert:
    """Whose trajectories are imitated.

    Attributes:
        policy: a policy's name.
        policy_args: its keyword arguments, such as how often a flawed person leaves out a step.
        thoughts: the words its actions get.
        n_tasks: only the first so many tasks of train, for experts and exploration alike.
        samples: trajectories of each task.
        min_score: the least final score of one to learn from.
    """

    policy: str = "expert"
    policy_args: Mapping[str, Any] = field(default_factory=dict)
    thoughts: Style = "full"
    n_tasks: int | None = None
    samples: int = 1
    min_score: float = 0.7


@dataclass(frozen=True)
class BestOf:
    """Best-of-N over the SFT model.

    Attributes:
        n: episodes of each task; the one with the best reward counts.
        temperature: at which they are sampled.
    """

    n: int = 10
    temperature: float = 0.7


@dataclass(frozen=True)
class Evaluation:
    """The task sets that fill the table.

    Attributes:
        splits: their names.
        n_tasks: only the first so many tasks of each.
        batch_size: episodes that run at once.
    """

    splits: tuple[str, ...] = ("seen", "unseen")
    n_tasks: int | None = None
    batch_size: int = 64


@dataclass(frozen=True)
class Costs:
    """What `eto reproduce --dry-run` reckons with; runs do not read it.

    Attributes:
        n_parameters: of the model.
        n_train: tasks of the train split.
        n_evaluated: tasks of all splits that are evaluated.
        turns: of an episode.
        head_tokens: of instruction, example and first observation.
        turn_tokens: that the agent writes in a turn.
        observation_tokens: of the world's answer to it.
        pairs_per_task: share of explored tasks that give a pair.
        n_devices: processors that work at once.
        train_flops_per_s: assumed of one device, while it trains.
        play_flops_per_s: assumed of one device, while it plays; writing is slower than reading.
    """

    n_parameters: float = 1e6
    n_train: int = 1000
    n_evaluated: int = 200
    turns: float = 10.0
    head_tokens: float = 500.0
    turn_tokens: float = 40.0
    observation_tokens: float = 40.0
    pairs_per_task: float = 0.5
    n_devices: int = 1
    train_flops_per_s: float = 1e12
    play_flops_per_s: float = 1e11


@dataclass(frozen=True)
class Recipe:
    """All that is to be known of one world; see the sections' classes."""

    name: str
    world: World
    model: Model
    expert: Expert
    sft: SFTSettings
    sft_more: SFTSettings
    best_of_n: BestOf
    rft: RFTSettings
    ppo: PPORun
    eto: ETOSettings
    evaluation: Evaluation
    costs: Costs
    measured: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each stage took when the recipe was last measured, for the time that is left."""


@dataclass(frozen=True)
class Tier:
    """A reproduction.

    Attributes:
        name: the tier's.
        about: one line.
        methods: rows of the table, out of `METHODS`.
        seeds: everything is done once for each.
        n_processes: worlds and seeds that go on at once.
        n_threads: of each process; 0 leaves it to torch.
        launch: command lines for stages on several devices, by stage, for the dry run.
        recipes: by world.
    """

    name: str
    about: str = ""
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0,)
    n_processes: int = 1
    n_threads: int = 0
    launch: Mapping[str, str] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

    def narrowed(
        self, worlds: Sequence[str] = (), methods: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> Tier:
        """The same tier with only some worlds, methods or seeds; empty leaves all.

        Raises:
            UnknownNameError: no such world in the tier, or no such method.
        """
        for world in worlds:
            if world not in self.recipes:
                raise UnknownNameError(f"world in tier {self.name!r}:", world, self.recipes)
        for method in methods:
            if method not in METHODS:
                raise UnknownNameError("method", method, METHODS)
        return dataclasses.replace(
            self,
            recipes={w: self.recipes[w] for w in dict.fromkeys(worlds or self.recipes)},
            methods=tuple(m for m in METHODS if m in (methods or self.methods)),
            seeds=tuple(dict.fromkeys(seeds or self.seeds)),
        )


def built_in_tiers() -> list[str]:
    """Names of the tiers that come with the package."""
    folder = files("eto_agents.reproduce") / "tiers"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def read_tier(name: str, changes: Mapping[str, Any] | None = None) -> Tier:
    """A tier by name, or from a TOML file.

    Args:
        name: one of `built_in_tiers`, or a file's path.
        changes: settings that win over the file's, by ``section.key`` or ``world.section.key``.

    Raises:
        UnknownNameError: no such tier, world, section or setting.
        DataNotFoundError: no such file.
        CorruptDataError: the file is not TOML.
        SettingsError: a value is of the wrong type or out of range.
    """
    path = Path(name) if name.endswith(".toml") else _built_in(name)
    record = read_toml_file(path)
    if "like" in record:
        record = _over(read_toml_file(_built_in(str(record.pop("like")))), record)
    return parse_tier(path.stem, record, changes or {})


def _over(record: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `more` over those of `record`, section by section."""
    both = dict(record)
    for key, value in more.items():
        is_section = isinstance(value, dict) and key in both
        both[key] = _over(both[key], value) if is_section else value
    return both


def _built_in(name: str) -> Path:
    if name not in built_in_tiers():
        hint = "A path of a TOML file may be given, too."
        raise UnknownNameError("tier", name, built_in_tiers(), hint)
    return Path(str(files("eto_agents.reproduce") / "tiers" / f"{name}.toml"))


def parse_tier(name: str, record: Mapping[str, Any], changes: Mapping[str, Any]) -> Tier:
    """A tier from a file's values and the changes to them; see `read_tier`."""
    shared = copy.deepcopy(dict(record))
    worlds = shared.pop("worlds", {})
    if not isinstance(worlds, dict) or not worlds:
        raise DataNotFoundError(f"tier {name!r} has no world: add a section [worlds.webshop]")
    own = {key: shared.pop(key) for key in list(shared) if key in _TIER_KEYS}
    parts: dict[str, dict[str, Any]] = {}
    for world, values in worlds.items():
        sections = {k: dict(v) for k, v in values.items() if isinstance(v, dict)}
        sections["world"] = {k: v for k, v in values.items() if not isinstance(v, dict)}
        parts[world] = _merged(_merged({}, shared, name), sections, name)
    for key, value in sorted(changes.items(), key=lambda item: item[0].count(".")):
        first, _, rest = key.partition(".")
        if not rest and key in _TIER_KEYS:
            own[key] = value
        elif rest:
            _change(parts, first, rest, value)
        else:
            raise UnknownNameError("setting", key, _TIER_KEYS, "Others are section.key=value.")
    tier = overlay(Tier(name), own, f"tier {name!r}")
    recipes = {world: _recipe(world, part, f"tier {name!r}") for world, part in parts.items()}
    return dataclasses.replace(tier, recipes=recipes).narrowed(methods=tier.methods)


_TIER_KEYS: Final = ("about", "methods", "seeds", "n_processes", "n_threads", "launch")
_SECTIONS: Final = (
    *("world", "model", "expert", "sft", "sft_more", "best_of_n", "rft", "ppo"),
    *("eto", "explore", "dpo", "evaluation", "costs", "measured"),
)


def _merged(
    base: Mapping[str, Any], more: Mapping[str, Any], source: str
) -> dict[str, dict[str, Any]]:
    """Sections with the keys of `more` over those of `base`."""
    for section, values in more.items():
        if section not in _SECTIONS or not isinstance(values, dict):
            raise UnknownNameError(f"section in tier {source!r}:", section, _SECTIONS)
    return {
        section: {**base.get(section, {}), **more.get(section, {})}
        for section in dict.fromkeys([*base, *more])
    }


def _change(parts: dict[str, dict[str, Any]], first: str, rest: str, value: Any) -> None:
    """Set ``section.key`` in all worlds, or ``world.section.key`` in one."""
    section, dot, key = rest.partition(".")
    chosen, section, key = (
        ([parts[first]], section, key)
        if first in parts and dot
        else ([*parts.values()], first, rest)
    )
    if section not in _SECTIONS:
        raise UnknownNameError("section or world", section, (*_SECTIONS, *parts))
    for part in chosen:
        part.setdefault(section, {})[key] = value


Section = TypeVar("Section")


def _recipe(name: str, part: Mapping[str, Mapping[str, Any]], source: str) -> Recipe:
    def read(section: str, default: Section, by_stage: frozenset[str] = frozenset()) -> Section:
        values = part.get(section, {})
        where = f"{source} [{name}.{section}]"
        known = [f.name for f in dataclasses.fields(default) if f.name not in by_stage]  # type: ignore[arg-type]
        for key in values:
            if key.replace("-", "_") not in known:
                raise UnknownNameError(f"setting in {where}:", key, known)
        try:
            return overlay(default, values, where)
        except SettingsError:
            raise
        except ValueError as error:  # a stage's own check of ranges
            raise SettingsError(f"{where}: {error}") from error

    world = read("world", World())
    if not world.env:
        raise SettingsError(f"{source} [worlds.{name}]: env is missing, such as ETO-WebShop-v0")
    sft = read("sft", SFTSettings(save_every=0), _BY_STAGE)
    inherited = {f.name: getattr(sft, f.name) for f in dataclasses.fields(sft)}
    if world.n_rounds < 1:
        raise SettingsError(f"{source} [worlds.{name}]: n_rounds must be at least 1")
    if world.n_rounds != 1 and (world.dataset != "mini" or "ScienceWorld" in world.env):
        raise SettingsError(f"{source} [worlds.{name}]: n_rounds is for a mini dataset")
    explore = read("explore", Exploration(), _BY_STAGE)
    dpo = read("dpo", DPOSettings(), _BY_STAGE)
    try:
        eto = ETOSettings(env=world.env, data=(), model="", out=Path(), explore=explore, dpo=dpo)
    except ValueError as error:
        raise SettingsError(f"{source} [{name}.explore]: {error}") from error
    ppo = PPORun(env=world.env, model="", out=Path())
    return Recipe(
        name=name,
        world=world,
        model=read("model", Model()),
        expert=read("expert", Expert()),
        sft=sft,
        sft_more=read("sft_more", sft, _BY_STAGE | {"epochs", "batch_size"}),
        best_of_n=read("best_of_n", BestOf()),
        rft=read("rft", RFTSettings(**inherited), _BY_STAGE),
        ppo=read("ppo", ppo, _BY_STAGE | {"dev_tasks", "dev_seed"}),
        eto=read("eto", eto, _BY_STAGE | {"sft_epochs", "sft_learning_rate", "sft_batch_size"}),
        evaluation=read("evaluation", Evaluation()),
        costs=read("costs", Costs()),
        measured=_measured(part.get("measured", {}), f"{source} [{name}.measured]"),
    )


def _measured(values: Mapping[str, Any], where: str) -> dict[str, float]:
    known = ("expert", *METHODS)
    for key, value in values.items():
        if key not in known:
            raise UnknownNameError(f"stage in {where}:", key, known)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise SettingsError(f"{where}: {key} must be seconds, got {value!r}")
    return {key: float(value) for key, value in values.items()}
