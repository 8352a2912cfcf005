"""What a model would have done at each step of an expert's: for step-wise pairs.

ETO section 4.4 and Table 4: the history is the expert's, the step the agent's; nothing is played.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eto_agents.models.base import ChatModel, Sampling
from eto_agents.react.prompts import prompt_key_of
from eto_agents.rollout import episode_seed
from eto_agents.store import TrajectoryStore
from eto_agents.training.pairs import with_steps
from eto_agents.training.rows import chat_of
from eto_agents.trajectory import Step, Trajectory
from eto_agents.worlds import find_world

if TYPE_CHECKING:
    from eto_agents.models.checkpoint import Checkpoint

_GROUP = 64  # experts in one batch; an interruption loses at most this many


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
    """The agent's own step after every prefix of the experts' trajectories.

    Args:
        model: the agent's.
        checkpoint: whose prompts it is shown.
        experts: one a task.
        sampling: how it is sampled.
        file: the steps, as trajectories of the same tasks; a call that was interrupted resumes.
        seed: of what is drawn.
        world: whose prompt; by default the one the trajectories tell.

    Returns:
        By task id, for `pairs.step_pairs`; None where the model gave no answer.
    """
    done = {t.task_id: t for t in TrajectoryStore(file).read()}
    waiting = [expert for expert in experts if expert.task_id not in done]
    if waiting:
        with TrajectoryStore(file) as store:
            for start in range(0, len(waiting), _GROUP):
                group = waiting[start : start + _GROUP]
                asked = _ask(model, checkpoint, group, sampling, seed, world)
                for expert, steps in zip(group, asked, strict=True):
                    done[expert.task_id] = with_steps(expert, steps)
                    store.append(done[expert.task_id])
    return {
        expert.task_id: [step if step.text else None for step in done[expert.task_id].steps]
        for expert in experts
    }


def _ask(
    model: ChatModel,
    checkpoint: Checkpoint,
    experts: Sequence[Trajectory],
    sampling: Sampling,
    seed: int,
    world: str | None,
) -> list[list[Step]]:
    """Step by step, so that every chat continues one that the model has just read."""
    chats = [chat_of(expert, checkpoint, world=world) for expert in experts]
    steps: list[list[Step]] = [[] for _ in experts]
    for t in range(max(len(expert.steps) for expert in experts)):
        live = [i for i, expert in enumerate(experts) if t < len(expert.steps)]
        answers = model.generate(
            [chats[i][0][: chats[i][1] + 2 * t] for i in live],
            sampling,
            [(episode_seed(seed, experts[i].task_id) + t) % 2**63 for i in live],
        )
        for i, answer in zip(live, answers, strict=True):
            text = "" if answer.error else answer.text
            form = find_world(world or prompt_key_of(experts[i])).format
            step = Step(form.parse(text).action, "", 0.0, 0.0, {}, 0.0, True, text=text)
            steps[i].append(step)
    return steps
