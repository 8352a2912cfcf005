from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from eto_agents.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from eto_agents.rollout import Rollouts, jobs_of, make_batch
from eto_agents.runs import RunMismatchError
from eto_agents.settings import PPO, SettingsError
from eto_agents.training import ppo as ppo_module
from eto_agents.training.episodes import sample_of, turns_of
from eto_agents.training.ppo import ActorCritic, SamplingMismatchError, ppo, train_ppo
from eto_agents.training.states import load_state, save_state
from eto_agents.training.task_splits import tasks_of
from eto_agents.trajectory import Trajectory
from eto_envs.errors import CorruptDataError, DataError
from tests.agents.training.worlds import (
    BANDIT,
    DOORS,
    WORLD,
    WORTH,
    episode,
    play,
    undecided,
)

pytestmark = pytest.mark.torch

QUICK = PPO(
    env=BANDIT, world=WORLD, n_updates=4, n_episodes=16, epochs=2, n_minibatches=2,
    learning_rate=5e-4, kl_weight=0.02, n_envs=16, save_every=0,
    max_new_tokens=6, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ppo")


@pytest.fixture(scope="module")
def bandit(folder: Path) -> Checkpoint:
    return undecided(folder)


@pytest.fixture(scope="module")
def doors(folder: Path) -> Checkpoint:
    return undecided(folder, DOORS)


def copied(checkpoint: Checkpoint) -> Checkpoint:
    return dataclasses.replace(checkpoint, model=copy.deepcopy(checkpoint.model))


def train(
    checkpoint: Checkpoint, env_id: str, settings: PPO, folder: Path, **arguments: Any
) -> tuple[Checkpoint, list[Mapping[str, float]]]:
    log: list[Mapping[str, float]] = []
    trained = train_ppo(
        checkpoint, env_id, tasks_of(env_id, "train"), settings, folder,
        **{"make_policy": play, "world": WORLD, "on_metrics": lambda _, m: log.append(m)}
        | arguments,
    )  # fmt: skip
    return trained, log


def episodes_of(checkpoint: Checkpoint, env_id: str, temperature: float) -> list[Trajectory]:
    policy = play(checkpoint, temperature)
    env = make_batch(env_id, policy, 8)
    try:
        return list(Rollouts(policy, env, jobs_of(tasks_of(env_id, "train"), (0,))))
    finally:
        env.close()


def greedy_score(checkpoint: Checkpoint, env_id: str) -> float:
    scores = [e.score for e in episodes_of(checkpoint, env_id, 0.0)]
    return sum(scores) / len(scores)


def test_a_sample_has_the_sampled_tokens_and_rewards_at_the_ends_of_turns(
    doors: Checkpoint,
) -> None:
    played = next(e for e in episodes_of(doors, DOORS, 1.0) if len(e.steps) > 1)
    sample = sample_of(played, doors, world=WORLD)
    turns = list(turns_of(sample.mask))
    assert len(turns) == len(played.steps)
    for (start, end), step in zip(turns, played.steps, strict=True):
        assert step.token_ids is not None
        assert sample.ids[start:end] == list(step.token_ids)
        assert sample.log_probs[start:end] == step.log_probs
        assert sample.rewards[end - 1] == step.reward
    assert sum(sample.rewards) == pytest.approx(played.score)
    assert sample.n_prompt == turns[0][0]
    off = [x for x, own in zip(sample.log_probs, sample.mask, strict=True) if not own]
    assert not any(off)


def test_an_end_of_turn_that_was_not_sampled_is_masked(bandit: Checkpoint) -> None:
    played = episodes_of(bandit, BANDIT, 1.0)[0]
    step = played.steps[0]
    assert step.token_ids is not None
    assert step.log_probs is not None
    cut = dataclasses.replace(step, token_ids=step.token_ids[:-1], log_probs=step.log_probs[:-1])
    sample = sample_of(dataclasses.replace(played, steps=[cut]), bandit, world=WORLD)
    assert sum(sample.mask) == len(step.token_ids) - 1
    assert sample.ids[-1] == step.token_ids[-1]  # the end of the turn is there


def test_an_episode_without_sampled_tokens_is_refused(bandit: Checkpoint) -> None:
    with pytest.raises(DataError, match="play it with a local model"):
        sample_of(episode("b"), bandit, world=WORLD)


def test_scores_are_at_the_agents_tokens_and_leave_out_control_tokens(bandit: Checkpoint) -> None:
    actor = ActorCritic(copied(bandit).model, control_ids=[0, 2])
    actor.value_head.fill_(1.0)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 0, 1]])
    scores = actor(ids, mask)
    assert scores.values[0].nonzero()[:, 0].tolist() == [1, 3]
    assert not scores.values.requires_grad
    logits = actor.model(input_ids=ids).logits[0]
    logits[:, [0, 2]] = float("-inf")
    full = logits.log_softmax(-1)
    for position in (1, 3):
        expected = full[position, ids[0, position + 1]]
        assert torch.allclose(scores.log_probs[0, position], expected, atol=1e-5)


def test_the_value_head_is_fitted_to_the_returns(bandit: Checkpoint) -> None:
    actor = ActorCritic(copied(bandit).model)
    generator = torch.Generator().manual_seed(0)
    n_features = len(actor.value_head)
    features = torch.randn(500, n_features, generator=generator)
    features[:, -1] = 1.0  # the constant
    weights = torch.randn(n_features, generator=generator)
    returns = features @ weights
    for _ in range(2):  # the same data twice say the same
        actor.fit_value_head(features.T @ features, features.T @ returns, ridge=1e-6)
        assert torch.allclose(actor.value_head, weights, atol=1e-3)
    actor.fit_value_head(features.T @ features, features.T @ returns, ridge=1e3)
    assert actor.value_head[:-1].abs().max() < 0.01  # all but the constant is shrunk
    assert actor.value_head[-1] == pytest.approx(float(returns.mean()), abs=0.05)


def test_padding_does_not_change_the_scores(bandit: Checkpoint) -> None:
    actor = ActorCritic(copied(bandit).model)
    ids, mask = torch.tensor([[5, 6, 7]]), torch.tensor([[0, 1, 1]])
    padded = torch.nn.functional.pad(ids, (0, 4)), torch.nn.functional.pad(mask, (0, 4))
    short, long = actor(ids, mask), actor(*padded)
    assert torch.allclose(short.log_probs, long.log_probs[:, :2], atol=1e-5)


def test_the_bandit_is_solved(bandit: Checkpoint, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, n_updates=10, n_episodes=48, epochs=3)
    trained, log = train(copied(bandit), BANDIT, settings, tmp_path)
    assert log[0]["score"] < 0.8
    assert log[-1]["score"] > 0.9
    assert greedy_score(trained, BANDIT) == 1.0
    assert all(metrics["sampling_gap"] < 1e-3 for metrics in log)


@pytest.mark.slow
def test_credit_for_the_second_step_reaches_the_first(doors: Checkpoint, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, n_updates=14, n_episodes=64, epochs=3)
    trained, log = train(copied(doors), DOORS, settings, tmp_path)
    assert log[0]["score"] < 0.65  # both doors are equally likely
    assert log[-1]["score"] > 0.85  # better than anything behind the first door
    assert greedy_score(trained, DOORS) == WORTH["bb"] == 1.0


def test_six_updates_of_32_episodes_solve_the_bandit(bandit: Checkpoint, tmp_path: Path) -> None:
    settings = PPO(
        env=BANDIT, world=WORLD, n_updates=6, n_episodes=32, learning_rate=3e-4, n_envs=32,
        save_every=0, max_new_tokens=6, device="cpu",
    )  # fmt: skip
    trained, log = train(copied(bandit), BANDIT, settings, tmp_path)
    assert log[0]["score"] < 0.8
    assert log[-1]["score"] >= 0.9
    assert greedy_score(trained, BANDIT) == 1.0


def likely(checkpoint: Checkpoint, token: str, other: str) -> Checkpoint:
    """The checkpoint, which samples a control token as often as another token."""
    model = copied(checkpoint).model
    ids = checkpoint.tokenizer.convert_tokens_to_ids([token, other])
    weight = model.get_output_embeddings().weight
    model.get_output_embeddings().weight = torch.nn.Parameter(weight.detach().clone())  # untied
    with torch.no_grad():
        model.get_output_embeddings().weight[ids[0]] = weight[ids[1]]
    return dataclasses.replace(checkpoint, model=model)


def test_control_tokens_are_never_sampled_and_no_episode_is_dropped(
    doors: Checkpoint, tmp_path: Path
) -> None:
    tokens = doors.tokenizer.encode("Action: a", add_special_tokens=False)
    first = doors.tokenizer.convert_ids_to_tokens(tokens[0])
    forging = likely(doors, "<|user|>", first)
    control = doors.tokenizer.convert_tokens_to_ids("<|user|>")
    ids = torch.tensor([doors.tokenizer.encode("OK", add_special_tokens=False)])
    logits = forging.model(input_ids=ids).logits[0, -1].detach()
    assert logits[control] == pytest.approx(float(logits[tokens[0]]))  # it would be sampled
    played = episodes_of(forging, DOORS, 1.0)
    assert all(control not in (step.token_ids or []) for e in played for step in e.steps)
    settings = dataclasses.replace(QUICK, n_updates=2, env=DOORS)
    _, log = train(forging, DOORS, settings, tmp_path)
    assert [metrics["episodes_dropped"] for metrics in log] == [0, 0]
    assert all(metrics["sampling_gap"] < 1e-3 for metrics in log)


def test_an_end_token_of_another_kind_is_left_out(doors: Checkpoint) -> None:
    played = episodes_of(doors, DOORS, 1.0)[0]
    other_end = 7
    model = copied(doors).model
    model.generation_config.eos_token_id = [model.config.eos_token_id, other_end]
    step = played.steps[0]
    assert step.token_ids is not None
    ended = dataclasses.replace(step, token_ids=[*step.token_ids[:-1], other_end])
    episode_ = dataclasses.replace(played, steps=[ended, *played.steps[1:]])
    sample = sample_of(episode_, dataclasses.replace(doors, model=model), world=WORLD)
    usual = sample_of(played, doors, world=WORLD)
    assert sample.ids == usual.ids  # the template's end stands there, which was not sampled
    assert sum(sample.mask) == sum(usual.mask) - 1
    assert sum(sample.rewards) == pytest.approx(sum(usual.rewards))


def test_norms_are_not_decayed(bandit: Checkpoint) -> None:
    actor = ActorCritic(copied(bandit).model)
    optimizer = ppo_module._optimizer(actor, dataclasses.replace(QUICK, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in actor.named_parameters()}
    for parameter in actor.parameters():
        parameter.grad = torch.zeros_like(parameter)  # only the decay moves anything
    optimizer.step()
    unmoved = {name for name, p in actor.named_parameters() if torch.equal(p, before[name])}
    assert unmoved
    assert all("norm" in name for name in unmoved)


def test_minibatches_are_drawn_at_random(
    doors: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[float]] = []
    loss = ppo_module._loss

    def recorded(actor: Any, batch: Any, *rest: Any) -> Any:
        drawn.append(sorted(batch.sampled.sum(1).tolist()))
        return loss(actor, batch, *rest)

    monkeypatch.setattr(ppo_module, "_loss", recorded)
    settings = dataclasses.replace(QUICK, n_updates=1, n_episodes=16, epochs=3, n_minibatches=2)
    train(copied(doors), DOORS, settings, tmp_path)
    epochs = [drawn[i : i + 2] for i in (0, 2, 4)]
    for parts in epochs:
        assert [len(part) for part in parts] == [8, 8]
        assert sorted(itertools.chain(*parts)) == sorted(itertools.chain(*epochs[0]))
    assert len({str(sorted(parts)) for parts in epochs}) == 3  # another division in each epoch


def test_an_update_ends_once_the_policy_has_moved_far_enough(
    bandit: Checkpoint, tmp_path: Path
) -> None:
    settings = dataclasses.replace(QUICK, n_updates=1, epochs=10, learning_rate=1e-2)
    free = dataclasses.replace(settings, target_kl=None)
    _, (moved,) = train(copied(bandit), BANDIT, free, tmp_path / "free")
    assert moved["optimizer_steps"] == 10 * 2
    _, (stopped,) = train(copied(bandit), BANDIT, settings, tmp_path / "stopped")
    assert 1 <= stopped["optimizer_steps"] < 20
    assert stopped["update_kl"] < moved["update_kl"]


def test_training_uses_the_shaped_rewards(bandit: Checkpoint, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, n_updates=1)
    _, log = train(
        copied(bandit), BANDIT, settings, tmp_path, env_args={"shaping": ("step_cost=0.5",)}
    )
    assert log[0]["reward"] == pytest.approx(log[0]["score"] - 0.5 * log[0]["steps"])


def test_the_kl_penalty_keeps_the_policy_near_the_reference(
    bandit: Checkpoint, tmp_path: Path
) -> None:
    # The best policy under a penalty w says b with odds exp((1.0 - 0.2) / w): 60 % at w = 2.
    settings = dataclasses.replace(QUICK, n_updates=8, n_episodes=48, epochs=3, kl_weight=2.0)
    _, log = train(copied(bandit), BANDIT, settings, tmp_path)
    assert sum(metrics["score"] for metrics in log[-3:]) / 3 < 0.8


def test_tokens_sampled_from_another_model_are_refused(bandit: Checkpoint, tmp_path: Path) -> None:
    other = copied(bandit)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1.2)
    with pytest.raises(SamplingMismatchError, match="temperature 1 and top_p 1"):
        train(copied(bandit), BANDIT, QUICK, tmp_path, make_policy=lambda _: play(other))


def test_a_policy_that_fails_everywhere_is_an_error(bandit: Checkpoint, tmp_path: Path) -> None:
    def mute(checkpoint: Checkpoint) -> Any:
        policy = play(checkpoint)
        policy.model.generate = fail  # type: ignore[method-assign]
        return policy

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no voice")

    with pytest.raises(DataError, match=r"none of 16 episodes can be learned from.*no voice"):
        train(copied(bandit), BANDIT, QUICK, tmp_path, make_policy=mute)


def test_an_interrupted_run_ends_with_the_same_weights(bandit: Checkpoint, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, save_every=2, n_updates=4)
    whole, _ = train(copied(bandit), BANDIT, settings, tmp_path / "whole")

    def kill(update: int, _: Mapping[str, float]) -> None:
        if update == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(copied(bandit), BANDIT, settings, tmp_path / "cut", on_metrics=kill)
    starts: list[int] = []
    again, log = train(copied(bandit), BANDIT, settings, tmp_path / "cut", on_start=starts.append)
    assert starts == [2]
    assert len(log) == 2
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_damaged_state_is_refused(bandit: Checkpoint, tmp_path: Path) -> None:
    actor = ActorCritic(copied(bandit).model)
    optimizer = torch.optim.AdamW(actor.parameters())
    save_state(tmp_path, actor, optimizer, 3)
    assert load_state(tmp_path, actor, optimizer) == 3
    file = tmp_path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptDataError, match="delete it to start over"):
        load_state(tmp_path, actor, optimizer)


def test_a_state_has_what_the_value_head_was_fitted_to(bandit: Checkpoint, tmp_path: Path) -> None:
    actor = ActorCritic(copied(bandit).model)
    actor.fit_value_head(torch.eye(len(actor.moment)), torch.ones_like(actor.moment), 0.1)
    save_state(tmp_path, actor, torch.optim.AdamW(actor.parameters()), 1)
    other = ActorCritic(copied(bandit).model)
    load_state(tmp_path, other, torch.optim.AdamW(other.parameters()))
    for name in ("value_head", "gram", "moment"):
        assert torch.equal(getattr(other, name), getattr(actor, name))


def test_a_complete_run_is_not_repeated_and_refuses_changes(
    bandit: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(bandit, tmp_path / "start")
    settings = dataclasses.replace(QUICK, dev_tasks=2)
    trained, result = ppo(tmp_path / "start", settings, out=tmp_path / "ppo")
    assert trained == tmp_path / "ppo" / "checkpoint"
    assert (result["n_tasks"], result["n_updates"], result["n_episodes"]) == (6, 4, 64)
    written = (trained / "model.safetensors").stat().st_mtime_ns
    assert ppo(tmp_path / "start", settings, out=tmp_path / "ppo") == (trained, result)
    assert (trained / "model.safetensors").stat().st_mtime_ns == written
    assert load_checkpoint(str(trained), device="cpu").template == "plain"
    assert not (tmp_path / "ppo" / "work").exists()
    with pytest.raises(RunMismatchError, match=r"clip 0\.2 \(now 0\.1\)"):
        ppo(tmp_path / "start", dataclasses.replace(settings, clip=0.1), out=tmp_path / "ppo")
    with pytest.raises(RunMismatchError, match="model"):
        ppo(trained, settings, out=tmp_path / "ppo")


def test_shaping_and_n_tasks_come_from_the_settings(bandit: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(bandit, tmp_path / "start")
    settings = dataclasses.replace(QUICK, n_updates=1, n_tasks=3, shaping=("step_cost=0.5",))
    _, result = ppo(tmp_path / "start", settings, out=tmp_path / "ppo")
    assert result["n_tasks"] == 3
    (record,) = map(json.loads, (tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines())
    assert record["reward"] == pytest.approx(record["score"] - 0.5 * record["steps"])


@pytest.mark.parametrize(("name", "value"), [("n_updates", 0), ("gamma", 1.5), ("clip", 0)])
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        PPO(**{name: value})  # type: ignore[arg-type]
