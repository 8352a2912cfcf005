"""Chat models: local ones, and those behind a server."""

from __future__ import annotations

from eto_agents.models.base import ChatModel, Completion, Sampling, load_model

__all__ = ["ChatModel", "Completion", "Sampling", "load_model"]
