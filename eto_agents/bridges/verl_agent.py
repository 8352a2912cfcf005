"""verl-agent: a batch of episodes as one of its environment managers.

verl-agent is a fork of verl, and no package, so nothing of it is imported here. Its function
`make_envs`, and that of its many descendants, returns two managers, one for training and one for
validation: that is the place of `WorldEnvironmentManager`.

verl-agent shows a model no conversation. Each turn has a prompt of its own, a single message of the
user; here it is the conversation so far, written as one text. Differs from verl-agent's managers:
the prompts, "Thought: … Action: …" instead of tags, and rewards, which here sum to the score and
there are 10 for a success.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from eto_agents.chat_episode import ChatEpisode
from eto_agents.react.parse import without_reasoning
from eto_envs.registration import task_set

_N_THREADS = 32  # for worlds that wait for a simulator


class WorldEnvironmentManager:
    """Plays batches of episodes: `n_tasks` tasks at once, each `group_size` times."""

    def __init__(
        self,
        env_id: str,
        *,
        n_tasks: int,
        group_size: int = 1,
        split: str = "train",
        shuffle: bool = True,
        seed: int = 0,
        history_length: int | None = None,
        show_actions: bool = False,
        **options: Any,
    ) -> None:
        """Choose the tasks; nothing is played yet.

        Args:
            env_id: the Gymnasium id.
            n_tasks: tasks in a batch, verl-agent's ``data.train_batch_size``.
            group_size: episodes of each task, verl-agent's ``env.rollout.n``.
            split: the split of the tasks.
            shuffle: draw the tasks in random order, each once before any comes again. Otherwise
                batches take them in the split's order, for validation.
            seed: seed of that order and of the episodes.
            history_length: how many earlier turns the prompt has; by default all.
            show_actions: whether the prompt lists the admissible actions, which is more than
                `evaluate` shows.
            **options: further arguments of `ChatEpisode`, those of the environment included.

        Raises:
            gymnasium.error.Error: there is no such environment.
            UnknownNameError: there is no such split or dataset.
        """
        prompt_args = {"prompts", "with_example", "world", "strip_reasoning"}
        env_args = {name: value for name, value in options.items() if name not in prompt_args}
        self._task_ids = task_set(env_id, split, **env_args).ids
        reveal = {*options.get("reveal", ()), "admissible_actions"}
        self._options = {**options, "split": split, "seed": seed, "reveal": tuple(sorted(reveal))}
        self._env_id = env_id
        self._n_tasks, self._group_size = n_tasks, group_size
        self._history_length, self._show_actions = history_length, show_actions
        self._order = self._endless_order(np.random.default_rng(seed) if shuffle else None)
        self._episodes: list[ChatEpisode] = []
        self._n_prompt_messages: list[int] = []
        self._pool = ThreadPoolExecutor(_N_THREADS, thread_name_prefix="episode")

    def reset(
        self, kwargs: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Begin the next batch.

        Args:
            kwargs: the column ``env_kwargs`` of verl-agent's data set, if it has one: for each
                episode a dictionary with its ``task`` (id or index), instead of the next tasks.

        Returns:
            Observations, each as long as the batch: ``text`` (prompts), ``image`` (None) and
            ``anchor`` (the environment's observations alone, by which GiGPO groups); and infos, see
            `step`.

        Raises:
            UnknownNameError: there is no such task.
            BackendError: an environment failed.
        """
        self._close_episodes()
        if kwargs is None:
            drawn = itertools.islice(self._order, self._n_tasks)
            tasks = [(task, i) for task in drawn for i in range(self._group_size)]
        else:
            tasks = [(row["task"], i) for i, row in enumerate(kwargs)]
        self._episodes = list(self._pool.map(self._begin, tasks))
        self._n_prompt_messages = [len(episode.messages) for episode in self._episodes]
        return self._observations(), self._infos()

    def step(
        self, text_actions: Sequence[str]
    ) -> tuple[dict[str, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], list[dict[str, Any]]]:
        """Take a reply for each episode; one that is over stays as it is.

        Returns:
            Observations, as `reset` does; rewards and dones, each of shape (batch,); and infos.
            These are the environment's, and have in addition verl-agent's ``won``,
            ``is_action_valid``, ``available_actions``, ``task_score`` and ``extra.gamefile``, which
            is the task's id.

        Raises:
            ValueError: the number of replies is not the batch's.
            BackendError: an environment failed.
        """
        if len(text_actions) != len(self._episodes):
            raise ValueError(f"{len(text_actions)} replies for {len(self._episodes)} episodes")
        turns = list(self._pool.map(ChatEpisode.reply, self._episodes, text_actions))
        rewards = np.array([turn.reward for turn in turns])
        dones = np.array([turn.over for turn in turns])
        return self._observations(), rewards, dones, self._infos()

    def success_evaluator(
        self,
        *,
        total_infos: Sequence[Sequence[Mapping[str, Any]]],
        total_batch_list: Sequence[Sequence[Mapping[str, Any]]],
        **_: Any,
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Success and score of each episode at its last step, each of shape (batch,).

        Args:
            total_infos: for each episode the infos of all steps of the batch.
            total_batch_list: the same of verl-agent's records, whose ``active_masks`` say whether
                the episode was still played.
            **_: what else verl-agent passes.
        """
        last = [
            [info for info, record in zip(infos, records, strict=True) if record["active_masks"]][
                -1
            ]
            for infos, records in zip(total_infos, total_batch_list, strict=True)
        ]
        return {
            "success_rate": np.array([float(info["won"]) for info in last]),
            "task_score": np.array([info["task_score"] for info in last]),
        }

    def close(self) -> None:
        """Release the environments."""
        self._close_episodes()
        self._pool.shutdown()

    def _endless_order(self, rng: np.random.Generator | None) -> Iterator[str]:
        while True:
            n = len(self._task_ids)
            for index in range(n) if rng is None else rng.permutation(n):
                yield self._task_ids[index]

    def _begin(self, task: tuple[str | int, int]) -> ChatEpisode:
        name, sample = task
        return ChatEpisode(self._env_id, name, sample=sample, policy="verl-agent", **self._options)

    def _close_episodes(self) -> None:
        for episode in self._episodes:
            episode.close()
        self._episodes = []

    def _observations(self) -> dict[str, Any]:
        return {
            "text": list(map(self._text, self._episodes, self._n_prompt_messages)),
            "image": None,
            "anchor": [episode.observation for episode in self._episodes],
        }

    def _text(self, episode: ChatEpisode, n_prompt: int) -> str:
        """The conversation as one text."""
        instruction, _, *rest = episode.messages  # but not the model's "OK"
        texts = [instruction["content"]]
        texts += [message["content"] for message in rest[: n_prompt - 2]]
        turns = rest[n_prompt - 2 :]  # replies and observations in turn
        shown = turns
        if self._history_length is not None:
            shown = turns[-2 * self._history_length - 1 :]
        if len(shown) < len(turns):
            texts.append(f"[{(len(turns) - len(shown) + 1) // 2} earlier turns are not shown]")
        texts += [without_reasoning(message["content"]).strip() for message in shown]
        if self._show_actions:
            texts.append("Possible actions:\n" + "\n".join(episode.info["admissible_actions"]))
        return "\n\n".join(texts)

    def _infos(self) -> list[dict[str, Any]]:
        return [
            {
                **episode.info,
                "won": episode.info["success"],
                "is_action_valid": episode.info["is_valid_action"],
                "available_actions": episode.info["admissible_actions"],
                "task_score": episode.info["score"],
                "extra.gamefile": episode.task.id,
            }
            for episode in self._episodes
        ]
