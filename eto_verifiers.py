"""The plug-in ``eto-verifiers`` of verifiers and prime-rl; see `eto_agents.bridges.verifiers`."""

from eto_agents.bridges.verifiers import WorldEnv, WorldTaskset

__all__ = ["WorldEnv", "WorldTaskset"]
