"""`World`: what agents, exports and reports know of a world; one subclass a world, one file each.

A world is found by the name that its environment states (``info["world"]``). A third party's is an
entry point of group ``eto_agents.worlds``, whose name is the world's and whose value is
``"package.module:Class"``; its prompts are ``prompts/<variant>.toml`` beside the module. Everything
has a default, so that an agent plays in a world that nobody has described, too.
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
        kind: which, a key of the rules.
        detail: what was found, in a few words.
        steps: positions of the steps that show it, from 0.
    """

    kind: str
    detail: str
    steps: tuple[int, ...] = ()


class Flaws(Protocol):
    """How a person with flaws plays one episode: a dataclass of a generator and the rates."""

    def choose(self, observation: str, info: Info) -> str:
        """The next action."""


class World:
    """What is known of a world; the defaults are those of a world that nobody has described.

    Attributes:
        name: as its environment states it.
        title: for people; by default the name.
        env_id: its Gymnasium id.
        format: how replies are read and observations written.
        variants: keys of its prompts; more than one where games differ in wording.
        published: the published prompts' names, by variant.
        columns: columns of the paper's tables, and the split that each is.
        dataset: the dataset whose task sets are the paper's.
        refusals: a pattern of observations that say that an action was not accepted.
        goal: a pattern that finds the instruction in the first observation, as its first group.
        failure_rules: label and rule of the kinds of failure that only this world has.
        has_more_tasks: whether its mini dataset can be made with further train tasks.
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

    def variant(self, info: Info) -> str:
        """The key of an episode's prompt."""
        return str(info["world"])

    def variant_of(self, trajectory: Trajectory) -> str:
        """The key of a recorded episode's prompt."""
        return trajectory.world

    def prompt(self, variant: str) -> str | None:
        """The text of a prompt in TOML, or None if there is none."""
        package = type(self).__module__.rpartition(".")[0]
        file = resources.files(package) / "prompts" / f"{variant}.toml"
        return file.read_text(encoding="utf-8") if file.is_file() else None

    @property
    def flaws(self) -> type[Any] | None:
        """A dataclass in the form of `Flaws`, made from a `random.Random` and rates by name."""
        return None

    def narrator(self, style: Style, rng: random.Random) -> Narrator | None:
        """Who puts an episode's thoughts into words; None if nobody does.

        Args:
            style: ``"full"`` or ``"brief"``.
            rng: draws the wording.
        """
        return None

    def outcome(self, trajectory: Trajectory) -> Hashable:
        """What the agent brought about, without the score; None if the log does not say."""
        return None

    def failures(self, trajectory: Trajectory) -> list[Failure]:
        """How an episode failed that only this world knows of; they explain its end."""
        return []

    def write_more_tasks(self, folder: Path, n_rounds: int) -> None:
        """Write the mini dataset with `n_rounds` times as many train tasks, if `has_more_tasks`."""
        raise NotImplementedError


def find_world(name: str) -> World:
    """The world of a name, or of a prompt's variant such as ``"alfworld-2.1.1"``.

    A name that nothing describes gives a `World` with the defaults.
    """
    targets = _targets()
    family = name.partition("-")[0]
    known = name if name in targets else family if family in targets else None
    return World() if known is None else _load(targets[known])


def all_worlds() -> list[World]:
    """The paper's worlds in the order of its tables, then those of entry points."""
    return [_load(target) for target in _targets().values()]


def world_of_env(env_id: str) -> World:
    """The world that an environment id is of; one with the defaults if none has it."""
    return next((world for world in all_worlds() if world.env_id == env_id), World())


def title_of(env_id: str) -> str:
    """For people: the title of the world that an environment id is of, or the id."""
    return world_of_env(env_id).title or env_id


def known_world(name: str, what: str = "world", hint: str = "") -> World:
    """As `find_world`, where the world must be described.

    Args:
        name: the world's.
        what: is not there otherwise, for the message, such as "thoughts for world".
        hint: for the message.

    Raises:
        UnknownNameError: nothing describes the world.
    """
    world = find_world(name)
    if not world.name:
        raise UnknownNameError(what, name, _targets(), hint)
    return world


def _targets() -> dict[str, str]:
    plugins = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {**WORLDS, **{name: value for name, value in plugins.items() if name not in WORLDS}}


@functools.cache
def _load(target: str) -> World:
    module, _, name = target.partition(":")
    made: World = getattr(importlib.import_module(module), name)()
    return made
