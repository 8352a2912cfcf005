"""Text worlds for language-model agents behind one Gymnasium API.

Importing this package registers the environment ids with Gymnasium; it does not load any world.
"""

from eto_envs.core import Snapshot, TextEnv
from eto_envs.errors import (
    BackendError,
    DataError,
    EtoError,
    MissingExtraError,
    UnknownNameError,
)
from eto_envs.registration import IDS, register_all, task_sets
from eto_envs.shaping import Info, Shaper, Transition
from eto_envs.spaces import TextSpace
from eto_envs.tasks import Task, TaskSet
from eto_envs.vector import TextVectorEnv
from eto_envs.wrappers import ShapeReward

__version__ = "0.1.0"

__all__ = [
    "IDS",
    "BackendError",
    "DataError",
    "EtoError",
    "Info",
    "MissingExtraError",
    "ShapeReward",
    "Shaper",
    "Snapshot",
    "Task",
    "TaskSet",
    "TextEnv",
    "TextSpace",
    "TextVectorEnv",
    "Transition",
    "UnknownNameError",
    "task_sets",
]

register_all()
