"""Two worlds whose best policy is known, and a tiny model that can already reply in them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch.nn.functional import cross_entropy

from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.tiny import make_tiny
from eto_agents.policies.react import ReActPolicy
from eto_agents.settings import Playing, ProtocolName
from eto_agents.training import losses
from eto_agents.training.rows import encode_trajectory
from eto_agents.trajectory import Step, Trajectory
from eto_envs.core import Advance, TextEnv
from eto_envs.tasks import Task, TaskSet
from eto_envs.vector import TextVectorEnv

BANDIT = "eto-test/Bandit-v0"
DOORS = "eto-test/Doors-v0"
WORLD = "letters"

# The first door decides what the second is worth; the safer first door misses the best outcome.
WORTH = {"aa": 0.5, "ab": 0.4, "ba": 0.0, "bb": 1.0}


def _tasks(split: str) -> TaskSet:
    def make(task_id: str) -> Task:
        return Task(id=task_id, goal="choose", max_steps=3, kind="letters")

    return TaskSet([f"t{i}" for i in range(8)], make, split=split, dataset="toy")


class LettersEnv(TextEnv):
    """The agent says one or two letters, then gets a score."""

    world = WORLD
    n_letters = 1
    worth = {"a": 0.2, "b": 1.0}  # noqa: RUF012 (a constant)

    def __init__(self, split: str = "train", **kwargs: Any) -> None:
        super().__init__(_tasks(split), **kwargs)
        self._said = ""

    def _start(self, task: Task) -> str:
        self._said = ""
        return "Say a or b."

    def _advance(self, action: str) -> Advance:
        is_valid = action in ("a", "b")
        self._said += action if is_valid else ""
        is_over = len(self._said) == self.n_letters
        score = self.worth[self._said] if is_over else 0.0
        return Advance(f"You said {self._said}.", score, is_over, is_valid)

    def _reveal(self, name: str) -> Any:
        return {"admissible_actions": ["a", "b"], "expert_action": "b", "hidden_state": {}}[name]

    def _world_state(self) -> Any:
        return self._said

    def _set_world_state(self, task: Task, state: Any) -> None:
        self._said = state


class DoorsEnv(LettersEnv):
    """Two letters; `WORTH` has the scores."""

    n_letters = 2
    worth = WORTH


def bandit_vector_env(**kwargs: Any) -> TextVectorEnv:
    return TextVectorEnv(LettersEnv, **kwargs)


def doors_vector_env(**kwargs: Any) -> TextVectorEnv:
    return TextVectorEnv(DoorsEnv, **kwargs)


for _id, _env, _vector in (
    (BANDIT, "LettersEnv", "bandit_vector_env"),
    (DOORS, "DoorsEnv", "doors_vector_env"),
):
    module = "tests.agents.training.worlds"
    gym.register(_id, f"{module}:{_env}", vector_entry_point=f"{module}:{_vector}")


def episode(letters: str, env_id: str = BANDIT, task_id: str = "t0", **changes: Any) -> Trajectory:
    """The episode of an agent that says `letters`."""
    worth = WORTH if env_id == DOORS else LettersEnv.worth
    steps = [
        Step(c, f"You said {letters[: i + 1]}.", 0.0, 0.0, {}, 0.0, True, text=f"Action: {c}")
        for i, c in enumerate(letters)
    ]
    score = worth.get(letters, 0.0)
    fields: dict[str, Any] = {
        "env_id": env_id,
        "world": WORLD,
        "dataset": "toy",
        "split": "train",
        "tasks_sha256": "0",
        "task_id": task_id,
        "kind": "letters",
        "goal": "choose",
        "seed": 0,
        "policy": "script",
        "initial_observation": "Say a or b.",
        "messages": [],
        "steps": steps,
        "status": "completed",
        "score": score,
        "success": score == 1.0,
    }
    return Trajectory(**fields | changes)


def write_prompts(folder: Path) -> str:
    path = folder / "letters.toml"
    path.write_text(f'world = "{WORLD}"\ninstruction = "Letters."\n')
    return str(path)


def token_log_probs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Log-probability, (B, T - 1), of each token of ids, (B, T), given those before it."""
    logits = model(input_ids=ids).logits[:, :-1]
    return -cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def undecided(
    folder: Path,
    env_id: str = BANDIT,
    *,
    n_steps: int = 60,
    protocol: ProtocolName | None = None,
) -> Checkpoint:
    """A tiny model that says a and b with equal probability: trained on every possible episode."""
    n_letters = 2 if env_id == DOORS else 1
    episodes = [episode("".join(c), env_id) for c in itertools.product("ab", repeat=n_letters)]
    texts = ["Letters. OK Say a or b. Action: a Action: b Observation: You said ab."]
    if protocol == "tool":
        texts += ['{"name": "act", "arguments": {"action": "a"}}'] * 9
    vocab_size = 400 if protocol == "tool" else 300
    tiny = make_tiny(texts, size="nano", vocab_size=vocab_size, prompts=write_prompts(folder))
    checkpoint = replace(tiny, protocol=protocol)
    rows = [encode_trajectory(e, checkpoint, world=WORLD) for e in episodes]
    length = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (length - len(row.ids)) for row in rows])
    mask = torch.tensor([row.mask + [0] * (length - len(row.ids)) for row in rows])
    optimizer = torch.optim.AdamW(checkpoint.model.parameters(), lr=3e-3)
    for _ in range(n_steps):
        log_probs = token_log_probs(checkpoint.model, ids)
        (-losses.masked_mean(log_probs, losses.shifted(mask))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return checkpoint


def play(checkpoint: Checkpoint, temperature: float = 1.0) -> ReActPolicy:
    """The agent of a checkpoint."""
    settings = Playing(world=WORLD, max_new_tokens=6)
    return checkpoint.policy(settings, temperature=temperature)
