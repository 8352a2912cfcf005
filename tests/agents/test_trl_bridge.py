"""The TRL bridge: one tool, the scores of `evaluate`, and a real trainer's step."""

from __future__ import annotations

import inspect
import json
import math
import pickle
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from eto_agents import ChatEpisode
from eto_agents.bridges.trl import (
    TextWorld,
    environment_factory,
    rollout_func,
    train_dataset,
)
from eto_agents.react.protocols import OVER
from eto_agents.react.tools import ACT
from eto_agents.trajectory import Message
from eto_envs import task_sets
from eto_envs.errors import BackendError, UnknownNameError
from tests.agents import shopper
from tests.toy import BROKEN, CORRIDOR

WEBSHOP, ALFWORLD = "ETO-WebShop-v0", "ETO-ALFWorld-v0"
SEEN: dict[str, Any] = {"split": "seen", "dataset": "mini"}
EXPERT: dict[str, Any] = {"dataset": "mini", "reveal": ("expert_action",)}

silent = pytest.mark.filterwarnings(
    "ignore:You are using '(environment_factory|rollout_func)'",
    "ignore:.*checkpointing.*:FutureWarning",
)


def begin(env_id: str, task: str, **arguments: Any) -> tuple[Any, str]:
    world = environment_factory(env_id, **arguments)()
    return world, world.reset(task=task, prompt="…", environment=None)


def test_the_scores_are_those_of_evaluate() -> None:
    world = environment_factory(WEBSHOP, prompts="brief", **SEEN)()
    scores = []
    for task in task_sets(WEBSHOP, "mini")["seen"].ids[:96]:
        text = world.reset(task=task)
        while not world.episode.over:
            text = world.act(shopper.command(text))
        scores.append(world.get_reward())
    for n, expected in shopper.SCORES.items():
        assert statistics.fmean(scores[:n]) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("env_id", [WEBSHOP, ALFWORLD])
def test_the_expert_scores_1(env_id: str) -> None:
    world = environment_factory(env_id, split="seen", **EXPERT)()
    for task in task_sets(env_id, "mini")["seen"].ids[:20]:
        world.reset(task=task)
        while not world.episode.over:
            world.act(world.episode.info["expert_action"])
        assert world.get_reward() == 1.0


def test_act_is_the_only_tool() -> None:
    """What TRL takes for tools, and what the model reads of them: the same as everywhere else."""
    world, _ = begin(WEBSHOP, "60", **SEEN)
    functions = inspect.getmembers(type(world), predicate=inspect.isfunction)
    public = [name for name, _ in functions if not name.startswith("_")]
    assert public == ["act", "get_reward", "reset"]
    utils = pytest.importorskip("transformers.utils")
    function = utils.get_json_schema(world.act)["function"]
    assert {name: function[name] for name in ACT["function"]} == ACT["function"]


def test_factories_travel_and_name_the_reward_column() -> None:
    factory = pickle.loads(pickle.dumps(environment_factory(WEBSHOP, **SEEN)))
    one, other = factory(), environment_factory(WEBSHOP, dataset="mini")()
    assert type(one) is type(other)
    assert isinstance(one, TextWorld)
    assert type(one).__name__ == WEBSHOP
    assert type(environment_factory(ALFWORLD, dataset="mini")()).__name__ == ALFWORLD


def test_reset_is_deterministic_and_follows_the_row() -> None:
    tasks = task_sets(WEBSHOP, "mini")["seen"]
    world, text = begin(WEBSHOP, tasks[3].id, **SEEN)
    assert tasks[3].goal in text
    other = world.reset(task=tasks[4].id)
    assert tasks[4].goal in other
    assert world.reset(task=tasks[3].id) == text
    with pytest.raises(TypeError, match="task"):
        world.reset(prompt="…")
    with pytest.raises(UnknownNameError, match="nowhere"):
        world.reset(task="nowhere")


def test_after_the_end_it_says_so() -> None:
    world, _ = begin(CORRIDOR, "room2", prompts="brief", world="webshop")
    assert world.act("east") == "You are in room 1."
    assert world.get_reward() == 0.5
    for action in ("east", "west", ""):
        assert world.act(action) == OVER
    assert world.get_reward() == 1.0
    assert world.episode.trajectory.status == "completed"


def test_a_call_without_a_text_costs_a_step() -> None:
    world, _ = begin(CORRIDOR, "room3", prompts="brief", world="webshop")
    for wrong in (3, None, ["east"], {"direction": "east"}):
        assert "must be a JSON object" in world.act(wrong)
    assert world.episode.info["n_steps"] == 4


def test_nothing_is_played_before_reset() -> None:
    world = environment_factory(CORRIDOR)()
    with pytest.raises(gym.error.ResetNeeded):
        world.act("east")
    with pytest.raises(gym.error.ResetNeeded):
        world.get_reward()


def test_an_unknown_environment_is_noticed_at_once() -> None:
    with pytest.raises(gym.error.Error, match="ETO-WebShip"):
        environment_factory("ETO-WebShip-v0")
    with pytest.raises(UnknownNameError, match="nowhere"):
        environment_factory(WEBSHOP, split="nowhere", dataset="mini")
    with pytest.raises(UnknownNameError, match="nowhere"):
        train_dataset(WEBSHOP, split="nowhere", dataset="mini")


def test_a_failure_of_the_environment_is_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = begin(BROKEN, "room2", prompts="brief", world="webshop")
    with pytest.raises(BackendError, match="the world ended"):
        world.act("east")
    assert world.act("east") == OVER
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.16.0")
    assert world.get_reward() is None
    # Older releases of TRL count None as 0.
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.14.2")
    with pytest.raises(BackendError, match="the world ended"):
        world.get_reward()
    world.reset(task="room3")
    assert world.get_reward() == 0.0


@pytest.mark.torch
@pytest.mark.parametrize("with_example", [True, False])
def test_rows_begin_the_conversation_that_reset_continues(with_example: bool) -> None:
    arguments: dict[str, Any] = {"prompts": "own", "with_example": with_example}
    rows = train_dataset(ALFWORLD, split="seen", dataset="mini", **arguments)
    tasks = task_sets(ALFWORLD, "mini")["seen"]
    assert rows["task"] == list(tasks.ids)
    episode = ChatEpisode(ALFWORLD, 2, protocol="tool", **SEEN, **arguments)
    *head, task = rows[2]["prompt"]
    _, text = begin(ALFWORLD, rows[2]["task"], **SEEN, **arguments)
    assert task["content"] + text == episode.messages[-1]["content"]
    assert len(head) == len(episode.messages) - 1
    for row, message in zip(head, episode.messages[:-1], strict=True):
        assert (row["role"], row["content"]) == (message["role"], message["content"])
        for call, original in zip(
            row.get("tool_calls", []), message.get("tool_calls", []), strict=True
        ):
            assert call["function"]["arguments"] == json.loads(original["function"]["arguments"])
        assert ("name" in row) == (row["role"] == "tool")


def tiny_model(
    folder: Path, env_id: str, tasks: list[str], template: str = "qwen3", **env_args: Any
) -> tuple[Any, Any]:
    """An untrained model and its tokenizer, as others read the checkpoint that we have saved."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from eto_agents.models.checkpoint import save_checkpoint
    from eto_agents.models.tiny import make_tiny

    episodes = [ChatEpisode(env_id, task, protocol="tool", **env_args) for task in tasks]
    texts = [message["content"] for e in episodes for message in e.messages]
    save_checkpoint(make_tiny(texts, size="nano", vocab_size=400, template=template), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(folder), tokenizer


def train(model: Any, folder: Path, train_dataset: Any, prepare: Any = None, **more: Any) -> Any:
    """A step of GRPO on two tasks, with two completions each."""
    from trl import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=str(folder), max_steps=1, per_device_train_batch_size=4, num_generations=2,
            max_completion_length=400, max_tool_calling_iterations=8, learning_rate=1e-3, beta=0.0,
            use_cpu=True, bf16=False, save_strategy="no", report_to=[], logging_steps=1,
            disable_tqdm=True, shuffle_dataset=False,
        ),
        train_dataset=train_dataset,
        **more,
    )  # fmt: skip
    if prepare is not None:
        trainer._generate_single_turn = prepare(trainer)
    trainer.train()
    return trainer


@silent
@pytest.mark.torch
@pytest.mark.slow
def test_a_trainer_takes_a_step(tmp_path: Path) -> None:
    rows = train_dataset(ALFWORLD, split="train", dataset="mini", with_example=False)
    rows = rows.select(range(2))
    arguments = {"dataset": "mini", "split": "train", "with_example": False}
    model, tokenizer = tiny_model(tmp_path / "model", ALFWORLD, rows["task"], **arguments)
    factory = environment_factory(ALFWORLD, **arguments)
    trainer = train(model, tmp_path, rows, processing_class=tokenizer, environment_factory=factory)
    logs = trainer.state.log_history[0]
    assert math.isfinite(logs["loss"])
    assert logs[f"rewards/{ALFWORLD}/mean"] == 0.0
    assert [world.episode.task.id for world in trainer.environments] == [
        task for task in rows["task"] for _ in range(2)
    ]


def caller(template: str) -> Callable[[Any], Callable[..., Any]]:
    """In place of the model: it walks east in the corridor, and stops when it has arrived."""
    from eto_agents.react.protocols import call_of
    from eto_agents.react.tool_calls import written_as

    calls: Message = {"role": "assistant", "content": "", "tool_calls": [call_of("east", "1")]}
    call = written_as(calls, template)

    def prepare(trainer: Any) -> Callable[..., Any]:
        tokenizer = trainer.processing_class

        def generate(prompt_ids: Any, *_: Any, **__: Any) -> Any:
            replies = ["Done." if OVER in tokenizer.decode(ids) else call for ids in prompt_ids]
            written = [reply + tokenizer.eos_token for reply in replies]
            return [tokenizer.encode(text, add_special_tokens=False) for text in written], None

        return generate

    return prepare


@silent
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("template", ["plain", "llama-3.1", "qwen2.5", "qwen3"])
def test_a_trainer_calls_the_tool_and_leaves_failures_out(template: str, tmp_path: Path) -> None:
    prompts = {"prompts": "brief", "world": "webshop", "with_example": False}
    rows = train_dataset(BROKEN, **prompts).filter(lambda row: row["task"] in ("room2", "room3"))
    folder = tmp_path / "model"
    model, tokenizer = tiny_model(folder, BROKEN, rows["task"], template, **prompts)
    factory = environment_factory(BROKEN, **prompts)
    trainer = train(
        model, tmp_path, rows, caller(template), processing_class=tokenizer,
        environment_factory=factory,
    )  # fmt: skip
    statuses = [world.episode.trajectory.status for world in trainer.environments]
    assert sorted(statuses) == ["completed", "completed", "env_error", "env_error"]
    logs = trainer.state.log_history[0]
    assert logs["reward"] == logs[f"rewards/{BROKEN}/mean"] == 1.0  # and not 0.5
    assert logs["tools/call_frequency"] == 2.5
    assert logs["tools/failure_frequency"] == pytest.approx(2 / 10)


@silent
@pytest.mark.torch
def test_rollouts_with_a_trainer_of_ones_own(tmp_path: Path) -> None:
    from datasets import Dataset

    from eto_agents.settings import Playing
    from eto_agents.training.grpo import score
    from tests.agents.training.worlds import BANDIT, WORLD, undecided

    checkpoint = undecided(tmp_path)
    playing = Playing(env=BANDIT, world=WORLD, max_new_tokens=8)
    ids = task_sets(BANDIT)["train"].ids[:2]
    trainer = train(
        checkpoint.model,
        tmp_path,
        Dataset.from_dict({"prompt": list(ids)}),
        processing_class=checkpoint.tokenizer,
        rollout_func=rollout_func(checkpoint, playing, seed=3),
        reward_funcs=score,
    )
    logs = trainer.state.log_history[0]
    assert 0.0 <= logs["rewards/score/mean"] <= 1.0
    assert math.isfinite(logs["loss"])
    assert logs["completions/mean_length"] > 0
