"""`World`: what agents, exports and reports know of a world, with one subclass and file per world.

A world is found by the name that its environment states (``info["world"]``). A third party adds one
with an entry point of group ``eto_agents.worlds``, whose name is the world's and whose value is
``"package.module:Class"``; its prompts are ``prompts/<variant>.toml`` next to the module. All
attributes have defaults, so that agents can also play in a world without a description.
"""

from __future__ import annotations

import functools
import importlib
import random
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from eto_agents.react.parse import DEFAULT_FORMAT, Format
from eto_envs.errors import UnknownNameError

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory
    from eto_agents.worlds.narrator import Narrator, Style
    from eto_envs.shaping import Info

WORLDS: Final[Mapping[str, str]] = {
    "webshop": "eto_agents.worlds.webshop:WebShop",
    "scienceworld": "eto_agents.worlds.scienceworld:ScienceWorld",
    "alfworld": "eto_agents.worlds.alfworld:ALFWorld",
}
"""The paper's worlds, in the order of its tables."""

ENTRY_POINT_GROUP: Final = "eto_agents.worlds"


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which an episode failed.

    Attributes:
        kind: the kind of failure, a key of the rules.
        detail: a description in a few words.
        steps: indices of the steps that show the failure, from 0.
    """

    kind: str
    detail: str
    steps: tuple[int, ...] = ()


class Flaws(Protocol):
    """An expert with human flaws in one episode: a dataclass of a random generator and rates."""

    def choose(self, observation: str, info: Info) -> str:
        """Return the next action."""


class World:
    """A description of a world; the defaults are for worlds without one.

    Attributes:
        name: the name that its environment states; empty for a world without a description.
        title: the name to show to people.
        env_id: the Gymnasium id.
        format: how replies are parsed and observations formatted.
        variants: keys of the world's prompts; several if its tasks differ in wording.
        published: names of ETO's published prompts, by variant.
        columns: columns of the paper's tables, each with its split.
        dataset: the dataset whose task sets the paper uses.
        refusals: a pattern that matches observations which say that an action was not accepted.
        goal: a pattern whose first group is the instruction in the initial observation.
        failure_rules: label and rule of each kind of failure that is specific to this world.
        has_more_tasks: whether its mini dataset can be generated with more train tasks.
        licence: the terms of its texts, in a sentence.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    env_id: ClassVar[str] = ""
    format: ClassVar[Format] = DEFAULT_FORMAT
    variants: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[Mapping[str, str]] = {}
    dataset: ClassVar[str] = ""
    refusals: ClassVar[str] = ""
    goal: ClassVar[str] = "(.*)"
    failure_rules: ClassVar[Mapping[str, tuple[str, str]]] = {}
    has_more_tasks: ClassVar[bool] = False
    licence: ClassVar[str] = ""

    def variant(self, info: Info) -> str:
        """The key of an episode's prompt."""
        return str(info["world"])

    def variant_of(self, trajectory: Trajectory) -> str:
        """The key of a recorded episode's prompt."""
        return trajectory.world

    def prompt(self, variant: str) -> str | None:
        """The TOML text of a prompt; None if there is none."""
        package = type(self).__module__.rpartition(".")[0]
        file = resources.files(package) / "prompts" / f"{variant}.toml"
        return file.read_text(encoding="utf-8") if file.is_file() else None

    @property
    def flaws(self) -> type[Any] | None:
        """The `Flaws` class, made from a `random.Random` and rates by name; or None."""
        return None

    def narrator(self, style: Style, rng: random.Random) -> Narrator | None:
        """Make the narrator of an episode's thoughts; None if the world has none.

        Args:
            style: ``"full"`` or ``"brief"``.
            rng: random generator of the wording.
        """
        return None

    def outcome(self, trajectory: Trajectory) -> Hashable:
        """What the agent achieved, regardless of the score; None if it cannot be determined."""
        return None

    def failures(self, trajectory: Trajectory) -> list[Failure]:
        """The failures of an episode that are specific to this world, and explain its end."""
        return []

    def write_more_tasks(self, folder: Path, n_rounds: int) -> None:
        """Write the mini dataset with `n_rounds` times as many train tasks, if `has_more_tasks`."""
        raise NotImplementedError


def find_world(name: str) -> World:
    """Find a world by its name, or by a variant such as ``"alfworld-2.1.1"``.

    Returns:
        The world; one with the defaults if there is no description of it.
    """
    targets = _targets()
    family = name.partition("-")[0]  # a variant is called WORLD-VERSION
    key = name if name in targets else family if family in targets else None
    return World() if key is None else _load(targets[key])


def all_worlds() -> list[World]:
    """The paper's worlds in the order of its tables, then those from entry points."""
    return [_load(target) for target in _targets().values()]


def world_of_env(env_id: str) -> World:
    """The world of an environment id; one with the defaults if there is no description of it."""
    return next((world for world in all_worlds() if world.env_id == env_id), World())


def title_of(env_id: str) -> str:
    """The title of an environment's world, to show to people; the id if it has none."""
    return world_of_env(env_id).title or env_id


def known_world(name: str, what: str = "world", hint: str = "") -> World:
    """Find a world that must have a description.

    Args:
        name: the world's name.
        what: what is missing otherwise, for the error message, such as "thoughts for world".
        hint: further text for the error message.

    Raises:
        UnknownNameError: there is no description of the world.
    """
    world = find_world(name)
    if not world.name:
        raise UnknownNameError(what, name, _targets(), hint)
    return world


@functools.cache  # reading the entry points takes milliseconds
def _targets() -> dict[str, str]:
    plugins = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {**WORLDS, **{name: value for name, value in plugins.items() if name not in WORLDS}}


@functools.cache
def _load(target: str) -> World:
    module, _, name = target.partition(":")
    world: World = getattr(importlib.import_module(module), name)()
    return world
