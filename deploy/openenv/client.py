"""The client, where OpenEnv looks for it."""

from eto_agents.bridges.openenv import WorldEnvClient

__all__ = ["WorldEnvClient"]
