"""What agents know of each world: prompts, reply format, thoughts, flaws, failures, columns."""

from eto_agents.worlds.base import Failure, Flaws, World, all_worlds, find_world

__all__ = ["Failure", "Flaws", "World", "all_worlds", "find_world"]
