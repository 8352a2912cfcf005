"""Recipes: all settings of a reproduction in one TOML file.

A recipe has a section for each training method (``[sft]``, ``[dpo]`` …) that applies to all worlds,
and under ``[worlds.NAME]`` a world's own settings, with sections of the same names that override
the shared ones. Settings on the command line, ``sft.epochs=3`` or ``alfworld.sft.epochs=3``,
override both. A file that starts with ``like = "cpu"`` inherits everything that it does not set
from that recipe. Sections are read into the methods' dataclasses (`eto_agents.settings`), so names,
defaults and checks are the same everywhere. Recipes are run by `eto_agents.reproduce.run`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from eto_agents.settings import (
    DPO,
    ETO,
    GRPO,
    PPO,
    RFT,
    SFT,
    Dtype,
    SettingsError,
    overlay,
)
from eto_agents.worlds.base import world_of_env
from eto_agents.worlds.narrator import Style
from eto_envs.errors import DataNotFoundError, UnknownNameError
from eto_envs.files import read_toml

METHODS: Final[Mapping[str, str]] = {
    "base": "untuned",
    "sft": "SFT",
    "sft-more": "SFT-more",
    "sft-more-successes": "SFT-more on successes",
    "best-of-n": "Best-of-N",
    "rft": "RFT",
    "rft-successes": "RFT on successes",
    "ppo": "PPO",
    "grpo": "GRPO",
    "chosen-nll": "NLL on ETO's chosen",
    "eto": "ETO",
}
"""The rows of the table with their labels, in order."""

ON_REQUEST: Final = frozenset({"grpo", "sft-more-successes", "rft-successes", "chosen-nll"})
"""Rows that a recipe has only if it names them: GRPO, which the paper does not have, and controls
that tell apart what ETO's gain comes from."""

AFTER_ETO: Final = ("sft-more", "sft-more-successes", "chosen-nll")
"""Controls that make as many updates as ETO, or learn from its pairs."""

_DERIVED: Final = frozenset(
    {
        *("seed", "env", "dataset", "split", "n_tasks", "n_envs", "max_new_tokens"),
        *("device", "dtype", "template", "prompts", "with_example", "world", "vocab_size"),
        *("report_to", "dpo"),
    }
)
"""Settings of methods that are derived from other sections, such as ``[model]``, ``[expert]``."""


@dataclass(frozen=True)
class World:
    """The environment.

    Attributes:
        env: environment id.
        dataset: the dataset: mini, an official name, or a folder with the official files.
        prompt: world or variant whose prompt is used; by default the environment's.
        n_rounds: generate a mini dataset with this many times its number of train tasks. The tasks
            of further rounds are in additional rooms (ALFWorld), or are requests in other words for
            other options of the same products (WebShop). Seen and unseen do not change.
    """

    env: str = ""
    dataset: str = "auto"
    prompt: str | None = None
    n_rounds: int = 1


@dataclass(frozen=True)
class Model:
    """The model to train, and how it is prompted.

    Attributes:
        name: a checkpoint's folder or name, or "tiny:SIZE" for a new model.
        vocab_size: vocabulary size of a new tiny model's tokenizer, not counting item codes.
        template: chat template; by default the model's.
        prompts: prompts of the agent: own, published, brief or a TOML file; by default the model's.
        with_example: whether the prompt contains the worked example; by default as stored with the
            model.
        dtype: data type of the weights.
        device: device, such as cpu or cuda:1; by default a GPU if there is one.
        n_envs: number of episodes played at once.
        max_new_tokens: maximum number of tokens in a reply.
        rft_begins_with: the model that RFT fine-tunes: the base model, as in the paper, or SFT's,
            so that a model trained from scratch need not learn everything twice.
    """

    name: str = "tiny:small"
    vocab_size: int = 2000
    template: str | None = None
    prompts: str | None = None
    with_example: bool | None = None
    dtype: Dtype = "auto"
    device: str | None = None
    n_envs: int = 64
    max_new_tokens: int = 512
    rft_begins_with: Literal["base", "sft"] = "base"

    @property
    def is_tiny(self) -> bool:
        """Whether it is a new tiny model."""
        return self.name.partition(":")[0] == "tiny" and not Path(self.name).exists()


@dataclass(frozen=True)
class Budget:
    """How much the methods that explore may play to learn from.

    Attributes:
        n_episodes: number of training episodes of each of RFT, PPO, GRPO and ETO, from which their
            number of tasks (RFT, ETO) or updates (PPO, GRPO) follows, rounded down; the episodes
            that select on the dev tasks do not count. By default every method has its own.
    """

    n_episodes: int | None = None


@dataclass(frozen=True)
class Expert:
    """The expert whose trajectories are imitated.

    Attributes:
        policy: the policy's name.
        policy_args: keyword arguments of the policy, such as the rates of its flaws.
        thoughts: style of the thoughts that are added to its actions.
        n_tasks: use only the first N train tasks, for the expert and for exploration.
        n_samples: trajectories per task.
        min_score: minimum final score of a trajectory to train on, in [0, 1].
    """

    policy: str = "expert"
    policy_args: Mapping[str, Any] = field(default_factory=dict)
    thoughts: Style = "full"
    n_tasks: int | None = None
    n_samples: int = 1
    min_score: float = 0.7


@dataclass(frozen=True)
class BestOf:
    """Best-of-N with the SFT model.

    Attributes:
        n: episodes per task; the one with the highest reward counts.
        temperature: sampling temperature.
    """

    n: int = 10
    temperature: float = 0.7


@dataclass(frozen=True)
class Evaluation:
    """The evaluation that fills the table.

    Attributes:
        splits: the splits to play.
        n_tasks: play only the first N tasks of each split.
    """

    splits: tuple[str, ...] = ("seen", "unseen")
    n_tasks: int | None = None


@dataclass(frozen=True)
class WorldRecipe:
    """All settings of one world; see the classes of the sections.

    Attributes:
        measured: seconds that each method took when the recipe was last measured; the remaining
            time is estimated from them.
    """

    name: str
    world: World
    model: Model
    expert: Expert
    budget: Budget
    sft: SFT
    sft_more: SFT
    best_of_n: BestOf
    rft: RFT
    ppo: PPO
    grpo: GRPO
    eto: ETO
    evaluation: Evaluation
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A reproduction.

    Attributes:
        name: the file's name.
        about: a description in one line.
        methods: the rows of the table.
        seeds: everything is run once for each seed.
        n_processes: number of runs (a world with a seed) that are executed in parallel.
        n_threads: threads of each process; 0 leaves the number to torch.
        worlds: settings by world.
    """

    name: str
    about: str = ""
    methods: tuple[str, ...] = tuple(method for method in METHODS if method not in ON_REQUEST)
    seeds: tuple[int, ...] = (0,)
    n_processes: int = 1
    n_threads: int = 0
    worlds: Mapping[str, WorldRecipe] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps in each world: the expert, then the methods and those that they depend on.

        All methods except the untuned model start from SFT, and the controls of ETO come after it.
        """
        required = {*self.methods}
        required |= {"eto"} if required & set(AFTER_ETO) else set()
        required |= {"sft"} if required - {"base"} else set()
        ordered = [method for method in METHODS if method in required - set(AFTER_ETO)]
        return ("expert", *ordered, *(method for method in AFTER_ETO if method in required))

    def narrowed(
        self, worlds: Sequence[str] = (), methods: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> Recipe:
        """The same recipe with only some worlds, methods or seeds; an empty list selects all.

        Raises:
            UnknownNameError: the recipe has no such world, or there is no such method.
        """
        for world in worlds:
            if world not in self.worlds:
                raise UnknownNameError(f"world in recipe {self.name!r}:", world, self.worlds)
        for method in methods:
            if method not in METHODS:
                raise UnknownNameError("method", method, METHODS)
        return dataclasses.replace(
            self,
            worlds={w: self.worlds[w] for w in dict.fromkeys(worlds or self.worlds)},
            methods=tuple(m for m in METHODS if m in (methods or self.methods)),
            seeds=tuple(dict.fromkeys(seeds or self.seeds)),
        )


def built_in_recipes() -> list[str]:
    """Names of the recipes in this package."""
    names = (f.name for f in (files("eto_agents") / "recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a built-in recipe by name, or a TOML file.

    Args:
        name: one of `built_in_recipes`, or a file's path.
        changes: settings that override the file, by ``section.key`` or ``world.section.key``.

    Raises:
        UnknownNameError: there is no such recipe, world, section or setting.
        DataNotFoundError: there is no such file.
        CorruptDataError: the file is not valid TOML.
        SettingsError: a value has the wrong type or is out of range.
    """
    path = Path(name) if name.endswith(".toml") else _built_in(name)
    return parse_recipe(path.stem, _read_with_parents(path), changes or {})


def _read_with_parents(path: Path) -> dict[str, Any]:
    """Read a file, together with the values that it inherits (``like = …``)."""
    record = read_toml(path)
    if "like" not in record:
        return record
    parent = _read_with_parents(_built_in(str(record.pop("like"))))
    for section in (parent, *parent["worlds"].values()):
        section.pop("measured", None)  # another recipe takes other times
    return _overridden(parent, record)


def _overridden(record: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `record`, overridden by those of `more`, section by section."""
    result = dict(record)
    for key, value in more.items():
        is_section = isinstance(value, dict) and key in result
        result[key] = _overridden(result[key], value) if is_section else value
    return result


def _built_in(name: str) -> Path:
    if name not in built_in_recipes():
        hint = "You can also give the path of a TOML file."
        raise UnknownNameError("recipe", name, built_in_recipes(), hint)
    return Path(str(files("eto_agents") / "recipes" / f"{name}.toml"))


def parse_recipe(name: str, record: Mapping[str, Any], changes: Mapping[str, Any]) -> Recipe:
    """Make a recipe from a file's values and the changes to them; see `read_recipe`."""
    shared = copy.deepcopy(dict(record))
    worlds = shared.pop("worlds", {})
    if not isinstance(worlds, dict) or not worlds:
        raise DataNotFoundError(f"recipe {name!r} has no worlds: add a section [worlds.webshop]")
    own = {key: shared.pop(key) for key in list(shared) if key in _OWN_KEYS}
    parts: dict[str, dict[str, Any]] = {}
    for world, values in worlds.items():
        if not isinstance(values, dict):
            raise SettingsError(f"recipe {name!r}: [worlds.{world}] is missing, got {values!r}")
        sections = {k: dict(v) for k, v in values.items() if isinstance(v, dict)}
        sections["world"] = {k: v for k, v in values.items() if not isinstance(v, dict)}
        parts[world] = _merged(_merged({}, shared, name), sections, name)
    for key, value in sorted(changes.items(), key=lambda item: item[0].count(".")):
        first, _, rest = key.partition(".")
        if not rest and key in _OWN_KEYS:
            own[key] = value
        elif rest:
            _change(parts, first, rest, value)
        else:
            hint = "The settings of a section are given as section.key=value."
            raise UnknownNameError("setting", key, _OWN_KEYS, hint)
    recipe = overlay(Recipe(name), own, f"recipe {name!r}")
    read = {world: _world_recipe(world, part, f"recipe {name!r}") for world, part in parts.items()}
    return dataclasses.replace(recipe, worlds=read).narrowed(methods=recipe.methods)


_OWN_KEYS: Final = ("about", "methods", "seeds", "n_processes", "n_threads")
_SECTIONS: Final = (*(f.name for f in dataclasses.fields(WorldRecipe) if f.name != "name"), "dpo")


def _merged(
    base: Mapping[str, Any], more: Mapping[str, Any], source: str
) -> dict[str, dict[str, Any]]:
    """Merge sections; the keys of `more` override those of `base`."""
    known: tuple[str, ...]
    for section, values in more.items():
        if section not in _SECTIONS:
            if isinstance(values, dict):
                known = (*_SECTIONS, "worlds")
                raise UnknownNameError(f"section in recipe {source!r}:", section, known)
            known = ("like", *_OWN_KEYS)
            raise UnknownNameError(f"setting in recipe {source!r}:", section, known)
        if not isinstance(values, dict):
            raise SettingsError(f"recipe {source!r}: {section} must be a section, got {values!r}")
    return {
        section: {**base.get(section, {}), **more.get(section, {})}
        for section in dict.fromkeys([*base, *more])
    }


def _change(parts: dict[str, dict[str, Any]], first: str, rest: str, value: Any) -> None:
    """Set ``section.key`` in all worlds, or ``world.section.key`` in one."""
    section, dot, key = rest.partition(".")
    selected, section, key = (
        ([parts[first]], section, key)
        if first in parts and dot
        else ([*parts.values()], first, rest)
    )
    if section not in _SECTIONS:
        raise UnknownNameError("section or world", section, (*_SECTIONS, *parts))
    for part in selected:
        part.setdefault(section, {})[key] = value


Section = TypeVar("Section")


def _world_recipe(name: str, part: Mapping[str, Mapping[str, Any]], source: str) -> WorldRecipe:
    def read(section: str, default: Section, derived: frozenset[str] = frozenset()) -> Section:
        values = part.get(section, {})
        where = f"{source} [{name}.{section}]"
        known = [f.name for f in dataclasses.fields(default) if f.name not in derived]  # type: ignore[arg-type]
        for key in values:
            if key.replace("-", "_") not in known:
                raise UnknownNameError(f"setting in {where}:", key, known)
        try:
            return overlay(default, values, where)
        except SettingsError as error:
            if str(error).startswith(source):
                raise
            raise SettingsError(f"{where}: {error}") from error  # out of range

    world = read("world", World())
    _check_world(world, f"{source} [worlds.{name}]")
    sft = read("sft", SFT(save_every=0), _DERIVED)
    inherited = {f.name: getattr(sft, f.name) for f in dataclasses.fields(sft)}
    dpo = read("dpo", DPO(), _DERIVED)
    not_tuned = _DERIVED | {"dev_tasks", "dev_seed"}
    budget = read("budget", Budget())
    _check_budget(budget, part, source, name)
    rft = read("rft", RFT(**inherited), not_tuned)
    ppo = read("ppo", PPO(), not_tuned)
    grpo = read("grpo", GRPO(), not_tuned)
    eto = read("eto", ETO(dpo=dpo), _DERIVED)
    if (n := budget.n_episodes) is not None:
        rft = dataclasses.replace(rft, max_tasks=max(1, n // rft.n_samples))
        ppo = dataclasses.replace(ppo, n_updates=max(1, n // ppo.n_episodes))
        grpo = dataclasses.replace(grpo, n_updates=max(1, n // grpo.n_episodes))
        n_per_task = max(1, eto.iterations) * eto.n_samples
        eto = dataclasses.replace(eto, max_tasks=max(1, n // n_per_task))
    return WorldRecipe(
        name=name,
        world=world,
        model=read("model", Model()),
        expert=read("expert", Expert()),
        budget=budget,
        sft=sft,
        sft_more=read("sft_more", sft, _DERIVED | {"epochs", "batch_size"}),
        best_of_n=read("best_of_n", BestOf()),
        rft=rft,
        ppo=ppo,
        grpo=grpo,
        eto=eto,
        evaluation=read("evaluation", Evaluation()),
        measured=_measured(part.get("measured", {}), f"{source} [{name}.measured]"),
    )


def _check_budget(
    budget: Budget, part: Mapping[str, Mapping[str, Any]], source: str, world: str
) -> None:
    if budget.n_episodes is None:
        return
    if budget.n_episodes < 1:
        raise SettingsError(f"{source} [{world}.budget]: n_episodes must be at least 1")
    for section, key in _FROM_BUDGET.items():
        if key in part.get(section, {}):
            raise SettingsError(
                f"{source} [{world}.{section}]: {key} follows from [budget] n_episodes. Leave one "
                "of them out"
            )


_FROM_BUDGET: Final = {
    "rft": "max_tasks",
    "ppo": "n_updates",
    "grpo": "n_updates",
    "eto": "max_tasks",
}
"""The setting of each method that follows from the budget."""


def _check_world(world: World, where: str) -> None:
    if not world.env:
        raise SettingsError(f"{where}: env is missing, such as ETO-WebShop-v0")
    if world.n_rounds < 1:
        raise SettingsError(f"{where}: n_rounds must be at least 1")
    if world.n_rounds != 1 and (
        world.dataset != "mini" or not world_of_env(world.env).has_more_tasks
    ):
        raise SettingsError(f"{where}: n_rounds needs a mini dataset that can be generated")


def _measured(values: Mapping[str, Any], where: str) -> dict[str, float]:
    known = ("expert", *METHODS)
    for key, value in values.items():
        if key not in known:
            raise UnknownNameError(f"method in {where}:", key, known)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise SettingsError(f"{where}: {key} must be a number of seconds, got {value!r}")
    return {key: float(value) for key, value in values.items()}
