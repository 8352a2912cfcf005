"""What clients of the server import, as OpenEnv expects it."""

from eto_agents.bridges.openenv import WorldAction, WorldEnvClient, WorldObservation, WorldState

__all__ = ["WorldAction", "WorldEnvClient", "WorldObservation", "WorldState"]
