"""What the library knows of each world: prompts, reply format, narrator, flaws, failures."""

from eto_agents.worlds.base import Failure, Flaws, World, all_worlds, find_world

__all__ = ["Failure", "Flaws", "World", "all_worlds", "find_world"]
