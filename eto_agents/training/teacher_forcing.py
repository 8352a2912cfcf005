"""The model's own step after each prefix of an expert's trajectory, for step-wise pairs.

ETO section 4.4 and Table 4: the history is the expert's and the next step the agent's. Nothing is
played.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eto_agents.live_episode import episode_seed
from eto_agents.models.base import ChatModel, Sampling, complete
from eto_agents.react.prompts import prompt_key_of
from eto_agents.store import TrajectoryStore
from eto_agents.training.pairs import with_steps
from eto_agents.training.rows import chat_of
from eto_agents.trajectory import Step, Trajectory
from eto_agents.worlds import find_world
from eto_envs.errors import DataError

if TYPE_CHECKING:
    from eto_agents.models.checkpoint import Checkpoint

_GROUP = 64  # trajectories per batch; an interruption loses at most this many


def own_steps(
    model: ChatModel,
    checkpoint: Checkpoint,
    experts: Sequence[Trajectory],
    sampling: Sampling,
    file: Path,
    *,
    seed: int = 0,
    world: str | None = None,
) -> dict[str, list[Step | None]]:
    """Generate the agent's step after every prefix of the experts' trajectories.

    Args:
        model: the agent's chat model.
        checkpoint: provides the prompts.
        experts: expert trajectories, one per task.
        sampling: how replies are sampled.
        file: file in which the steps are stored, as trajectories of the same tasks; repeating an
            interrupted call resumes.
        seed: seed of the sampling.
        world: the world whose prompt is used; by default the trajectories'.

    Returns:
        The agent's steps by task id, for `pairs.step_pairs`; None where the model failed to reply.
    """
    done = {t.task_id: t for t in TrajectoryStore(file).read()}
    waiting = [expert for expert in experts if expert.task_id not in done]
    if waiting:
        with TrajectoryStore(file) as store:
            for start in range(0, len(waiting), _GROUP):
                group = waiting[start : start + _GROUP]
                generated = _generate(model, checkpoint, group, sampling, seed, world)
                for expert, steps in zip(group, generated, strict=True):
                    done[expert.task_id] = with_steps(expert, steps)
                    store.append(done[expert.task_id])
    return {
        expert.task_id: [step if step.text else None for step in done[expert.task_id].steps]
        for expert in experts
    }


def _generate(
    model: ChatModel,
    checkpoint: Checkpoint,
    experts: Sequence[Trajectory],
    sampling: Sampling,
    seed: int,
    world: str | None,
) -> list[list[Step]]:
    """Generate the steps of several trajectories at once, from the first prefix to the longest.

    In this order every chat continues one that the model has just read, so that its prefix cache
    can be reused.
    """
    chats = [chat_of(expert, checkpoint, world=world) for expert in experts]
    if any(chat.tools for chat in chats):
        raise DataError(
            "step-wise pairs are made of replies in text, and this agent calls tools: choose pairs "
            "of whole trajectories"
        )
    steps: list[list[Step]] = [[] for _ in experts]
    for t in range(max(len(expert.steps) for expert in experts)):
        live = [i for i, expert in enumerate(experts) if t < len(expert.steps)]
        completions = complete(
            model,
            [chats[i].messages[: chats[i].replies[t]] for i in live],
            sampling,
            [(episode_seed(seed, experts[i].task_id) + t) % 2**63 for i in live],
        )
        for i, completion in zip(live, completions, strict=True):
            text = "" if completion.error else completion.text
            reply_format = find_world(world or prompt_key_of(experts[i])).format
            action = reply_format.parse(text).action
            steps[i].append(Step(action, "", 0.0, 0.0, {}, 0.0, True, text=text))
    return steps
