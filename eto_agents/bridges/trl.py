"""TRL: the worlds as environments of `GRPOTrainer`, whose model acts by calling the tool `act`.

    GRPOTrainer(
        model="Qwen/Qwen3-0.6B",
        args=GRPOConfig(max_completion_length=4096, …),
        train_dataset=train_dataset("ETO-WebShop-v0", dataset="mini"),
        environment_factory=environment_factory("ETO-WebShop-v0", dataset="mini"),
    )

TRL generates, calls the tool and computes the loss; the tasks, the prompts and the score are ours.
`rollout_func` is the other way round: `eto_agents` plays whole episodes in ETO's protocol, as
`eto train grpo` does, for a trainer of the user's own. TRL calls both arguments experimental.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gymnasium.error import ResetNeeded

from eto_agents.chat_episode import ChatEpisode
from eto_agents.react.protocols import OVER, call_of
from eto_agents.react.tools import ACT
from eto_agents.trajectory import with_objects
from eto_envs.errors import BackendError, require
from eto_envs.registration import task_set

if TYPE_CHECKING:
    from eto_agents.models.checkpoint import Checkpoint
    from eto_agents.settings import Playing
    from eto_agents.trajectory import Message

_FIRST_WITHOUT_REWARD = (1, 15)
"""The first release of TRL that leaves out a completion without a reward; others count 0."""


def environment_factory(
    env_id: str,
    *,
    split: str = "train",
    prompts: str = "own",
    with_example: bool = True,
    world: str | None = None,
    **env_args: Any,
) -> Callable[[], TextWorld]:
    """The argument `environment_factory` of `GRPOTrainer`.

    Args:
        env_id: the Gymnasium id, after which the reward's column is named.
        split: the split that the tasks belong to.
        prompts: ``"own"``, ``"brief"``, or the path of a TOML file.
        with_example: whether the prompt has the worked example, if there is one.
        world: the world whose prompt is used; by default the environment's.
        **env_args: further keyword arguments for the environment, such as `dataset`.

    Returns:
        A function that makes an environment; it can be pickled.

    Raises:
        gymnasium.error.Error: there is no such environment.
        UnknownNameError: there is no such split or dataset.
    """
    task_set(env_id, split, **env_args)  # which checks them
    prompt_args = {"prompts": prompts, "with_example": with_example, "world": world}
    return _Factory(env_id, {"split": split, **prompt_args, **env_args})


class TextWorld:
    """The environment of one completion at a time; TRL resets it for the next.

    TRL takes every public method except for `reset` and `get_reward` for a tool, so that there must
    be none but `act`.
    """

    def __init__(self, env_id: str, arguments: Mapping[str, Any]) -> None:
        """Set the keyword arguments of the episodes; nothing is played yet."""
        self._env_id = env_id
        self._arguments = dict(arguments)
        self._episode: ChatEpisode | None = None
        self._n_calls = 0

    @property
    def episode(self) -> ChatEpisode:
        """The episode, for reward functions, which get the `environments` of all completions.

        Raises:
            gymnasium.error.ResetNeeded: there was no `reset`.
        """
        if self._episode is None:
            raise ResetNeeded("call reset(task=…) first")
        return self._episode

    def reset(self, task: str, **row: Any) -> str:
        """Begin the episode of a task.

        Args:
            task: the task's id, from the row's column of this name.
            **row: the row's other columns, which are ignored.

        Returns:
            The task as the agent reads it, which TRL appends to the last message of the prompt.

        Raises:
            UnknownNameError: there is no such task or prompt.
            BackendError: the environment failed, which ends the training.
        """
        if self._episode is not None:
            self._episode.close()
        self._episode = ChatEpisode(
            self._env_id, task, protocol="tool", policy="trl", **self._arguments
        )
        self._n_calls = 0
        return self._episode.messages[-1]["content"]

    def act(self, action: str) -> str:
        """Do one thing in the world, and get what happens or what you see.

        Args:
            action: One command, in the form that the instruction describes.

        Returns:
            The observation. The last one, which the agent of `eto eval` does not read either, is
            replaced by a sentence that says so.

        Raises:
            BackendError: the environment failed. TRL counts it in ``tools/failure_frequency``; the
                episode is over, and has no reward.
        """
        self._n_calls += 1
        call = call_of(action, f"call-{self._n_calls}")
        turn = self.episode.reply({"tool_calls": [call]})
        # The last observation may state the score. TRL lets the model go on until it stops calling.
        return OVER if turn.over else turn.messages[0]["content"]

    def get_reward(self) -> float | None:
        """The episode's score in [0, 1], also if the model has stopped before the end.

        Returns:
            The score; None if the environment failed. TRL then leaves the completion out of its
            group's mean and gives it no advantage.

        Raises:
            BackendError: the environment failed, and this release of TRL (before 1.15) would count
                None as 0.
        """
        if self.episode.over:
            trajectory = self.episode.trajectory
            if trajectory.status == "env_error":
                version = importlib.metadata.version("trl").split(".")
                if tuple(map(int, version[:2])) < _FIRST_WITHOUT_REWARD:
                    raise BackendError(f"task {trajectory.task_id}: {trajectory.error}")
                return None
        return self.episode.score


@dataclass(frozen=True)
class _Factory:
    """Makes environments of a class that is named after the environment's id."""

    env_id: str
    arguments: Mapping[str, Any]

    def __call__(self) -> TextWorld:
        return _class_of(self.env_id)(self.env_id, self.arguments)


@functools.cache
def _class_of(env_id: str) -> type[TextWorld]:
    """A class of this name: TRL logs rewards by class, and two worlds must not share a column."""
    return type(env_id, (TextWorld,), {})


def train_dataset(
    env_id: str,
    *,
    split: str = "train",
    prompts: str = "own",
    with_example: bool = True,
    world: str | None = None,
    **env_args: Any,
) -> Any:
    """The argument `train_dataset` of `GRPOTrainer`, with the arguments of `environment_factory`.

    Returns:
        A `datasets.Dataset` with a row for each task: `prompt`, the conversation up to the task,
        which the environment's `reset` adds to its last message, and `task`, the id.

    Raises:
        EtoError: as `environment_factory`.
        MissingExtraError: TRL is not installed.
    """
    datasets = require("datasets", extra="train")
    tasks = task_set(env_id, split, **env_args)
    with ChatEpisode(
        env_id,
        0,
        protocol="tool",
        prompts=prompts,
        with_example=with_example,
        world=world,
        split=split,
        **env_args,
    ) as episode:
        head = [_hugging_face(message) for message in episode.messages[:-1]]
    prompt = [*head, {"role": "user", "content": ""}]
    rows = [{"prompt": prompt, "task": task_id} for task_id in tasks.ids]
    # As JSON, because messages differ in their fields, and columns would fill these with None.
    return datasets.Dataset.from_list(rows, on_mixed_types="use_json")


def rollout_func(
    checkpoint: Checkpoint, playing: Playing, *, seed: int = 0
) -> Callable[[Sequence[str], Any], dict[str, list[Any]]]:
    """The argument `rollout_func` of a `GRPOTrainer` that trains a checkpoint.

    The trainer's prompts have to be the ids of the tasks, and its reward function
    `eto_agents.training.grpo.score`.

    Args:
        checkpoint: its model and its tokenizer have to be the trainer's.
        playing: environment, split, number of episodes at once, and length of the replies.
        seed: seed of the episodes.

    Raises:
        UnknownNameError: there is no such split.
    """
    from eto_agents.training.grpo import rollout_func as make
    from eto_agents.training.task_splits import playing_tasks

    return make(checkpoint, playing, playing_tasks(playing).train, seed=seed)


def _hugging_face(message: Message) -> dict[str, Any]:
    """A message as the templates of Hugging Face expect it; a tool's has the tool's name."""
    named = {"name": ACT["function"]["name"]} if message["role"] == "tool" else {}
    return with_objects(message) | named
