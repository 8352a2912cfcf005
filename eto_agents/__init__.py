"""Agents, evaluation and training for the environments of `eto_envs`.

Public names are imported lazily, on first use, so importing this package costs no more than
importing Gymnasium.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eto_agents.chat_episode import ChatEpisode
    from eto_agents.evaluation.harness import evaluate
    from eto_agents.evaluation.results import Results
    from eto_agents.policy import Decision, Policy, as_policy, load_policy
    from eto_agents.rollout import run_episode
    from eto_agents.store import TrajectoryStore
    from eto_agents.trajectory import Step, Trajectory

_WHERE = {
    "ChatEpisode": "chat_episode",
    "Decision": "policy",
    "Policy": "policy",
    "Results": "evaluation.results",
    "Step": "trajectory",
    "Trajectory": "trajectory",
    "TrajectoryStore": "store",
    "as_policy": "policy",
    "evaluate": "evaluation.harness",
    "load_policy": "policy",
    "run_episode": "rollout",
}

__all__ = [
    "ChatEpisode",
    "Decision",
    "Policy",
    "Results",
    "Step",
    "Trajectory",
    "TrajectoryStore",
    "as_policy",
    "evaluate",
    "load_policy",
    "run_episode",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
