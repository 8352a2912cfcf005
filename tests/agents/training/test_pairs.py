from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from eto_agents.training.pairs import (
    NoPairsError,
    Pairs,
    self_pairs,
    step_pairs,
    trajectory_pairs,
)
from eto_agents.trajectory import Message, Step, Trajectory
from eto_envs.errors import DataError, UnknownNameError


def step(action: str, score: float = 0.0) -> Step:
    text = f"Thought: so\nAction: {action}"
    return Step(action, f"saw {action}", 0.0, 0.0, {}, score, True, text=text)


def episode(task_id: str, actions: str, score: float, **changes: Any) -> Trajectory:
    """An episode whose actions are the letters of `actions`."""
    steps = [step(letter, score) for letter in actions]
    fields: dict[str, Any] = {
        "env_id": "Toy-v0",
        "world": "toy",
        "dataset": "toy",
        "split": "train",
        "tasks_sha256": "0",
        "task_id": task_id,
        "kind": "",
        "goal": "go",
        "seed": 0,
        "policy": "agent",
        "initial_observation": "start",
        "messages": conversation(steps),
        "steps": steps,
        "status": "completed",
        "score": score,
        "success": score == 1.0,
    }
    return Trajectory(**fields | changes)


def conversation(steps: Sequence[Step]) -> list[Message]:
    """The conversation of an agent up to its last reply."""
    messages: list[Message] = [{"role": "user", "content": "start"}]
    for step in steps:
        messages.append({"role": "assistant", "content": step.action})
        messages.append({"role": "user", "content": step.observation})
    return messages[:-1]


def actions(trajectory: Trajectory) -> str:
    return "".join(s.action for s in trajectory.steps)


def test_the_higher_final_reward_is_chosen() -> None:
    experts = [episode("a", "ab", 0.8), episode("b", "cd", 0.8)]
    explored = [episode("a", "x", 0.5), episode("b", "y", 1.0)]
    found = trajectory_pairs(experts, explored)
    assert [(actions(p.chosen), actions(p.rejected)) for p in found.pairs] == [
        ("ab", "x"),
        ("y", "cd"),  # the agent beats the expert, so the expert's is the rejected one
    ]
    assert found.counts == {"win": 1, "tie": 0, "lose": 1, "pairs": 2}
    assert [p.task_id for p in found.pairs] == ["a", "b"]


def test_equal_rewards_and_two_successes_make_no_pair() -> None:
    experts = [episode("a", "ab", 0.5), episode("b", "ab", 1.0), episode("c", "ab", 0.9)]
    experts[2] = episode("c", "ab", 0.9, success=True)
    explored = [episode("a", "x", 0.5), episode("b", "x", 1.0), episode("c", "x", 1.0)]
    found = trajectory_pairs(experts, explored)
    assert not found.pairs
    assert found.counts == {"win": 0, "tie": 3, "lose": 0, "both_succeeded": 2, "pairs": 0}


@pytest.mark.parametrize(
    ("cut", "n_of_agent", "n_of_expert"),
    [("rejected", 7, 7), ("agent", 7, 20), ("none", 20, 20)],
)
def test_the_rejected_side_is_shortened_to_the_chosen_ones_length_plus_five_rounds(
    cut: Any, n_of_agent: int, n_of_expert: int
) -> None:
    long, short = "x" * 20, "ab"
    lost = trajectory_pairs([episode("a", short, 1)], [episode("a", long, 0)], cut=cut)
    won = trajectory_pairs([episode("a", long, 0.5)], [episode("a", short, 1)], cut=cut)
    assert len(lost.pairs[0].rejected.steps) == n_of_agent
    assert len(won.pairs[0].rejected.steps) == n_of_expert
    for pair in (*lost.pairs, *won.pairs):
        assert actions(pair.chosen) == short  # the chosen side is never shortened
        for side in (pair.chosen, pair.rejected):
            assert side.messages == conversation(side.steps)


def test_a_rejected_side_that_is_just_short_enough_stays_whole() -> None:
    found = trajectory_pairs([episode("a", "ab", 1)], [episode("a", "x" * 7, 0)])
    assert len(found.pairs[0].rejected.steps) == 7
    found = trajectory_pairs([episode("a", "ab", 1)], [episode("a", "x" * 7, 0)], extra_rounds=0)
    assert len(found.pairs[0].rejected.steps) == 2


def test_episodes_that_cannot_be_compared_are_counted_by_reason() -> None:
    explored = [
        episode("a", "x", 0, status="env_error"),
        episode("a", "x", 0, status="agent_error"),
        episode("a", "x", 0, status="cancelled"),
        episode("a", "", 0, status="truncated"),
        episode("b", "x", 0),
        episode("a", "ab", 0),
        episode("a", "x", 0, dataset="other"),
    ]
    found = trajectory_pairs([episode("a", "ab", 1)], explored)
    assert found.counts == {
        "win": 0,
        "tie": 0,
        "lose": 0,
        "not_played": 3,
        "no_steps": 1,
        "no_expert": 2,
        "same_actions": 1,
        "pairs": 0,
    }
    with pytest.raises(NoPairsError, match=r"no pairs to train on.*not_played 3.*explore more"):
        found.check()


def test_several_explorations_of_a_task_give_several_pairs() -> None:
    explored = [episode("a", "x", 0, seed=0), episode("a", "y", 0.2, seed=1)]
    found = trajectory_pairs([episode("a", "ab", 0.9), episode("a", "cd", 1)], explored)
    assert [(actions(p.chosen), actions(p.rejected)) for p in found.pairs] == [
        ("cd", "x"),
        ("cd", "y"),
    ]
    assert found.check() is found


def test_an_expert_trajectory_that_failed_does_not_count() -> None:
    failed = episode("a", "ab", 0, status="env_error")
    assert trajectory_pairs([failed], [episode("a", "x", 1)]).counts["no_expert"] == 1


@pytest.mark.parametrize(("max_per_task", "expected"), [(1, ["x"]), (None, ["x", "y"])])
def test_self_pairs_take_the_largest_difference_first(
    max_per_task: int | None, expected: list[str]
) -> None:
    explored = [
        episode("a", "y", 0.5, seed=0),
        episode("b", "x", 0.3),
        episode("a", "best", 0.9, seed=1),
        episode("a", "x", 0.1, seed=2),
        episode("b", "y", 0.3, seed=1),
    ]
    found = self_pairs(explored, max_per_task=max_per_task)
    assert [actions(p.rejected) for p in found.pairs] == expected
    assert {actions(p.chosen) for p in found.pairs} == {"best"}
    assert (found.counts["win"], found.counts["tie"]) == (len(expected), 1)


def test_success_against_failure() -> None:
    explored = [
        episode("a", "good", 1.0, seed=0),
        episode("a", "bad", 0.4, seed=1),
        episode("b", "x", 0.9, seed=0),
        episode("b", "y", 0.2, seed=1),
    ]
    found = self_pairs(explored, success_against_failure=True)
    assert [(actions(p.chosen), actions(p.rejected)) for p in found.pairs] == [("good", "bad")]
    assert found.counts["no_success"] == 1


def test_step_pairs_share_the_experts_prefix_and_differ_in_one_turn() -> None:
    expert = episode("a", "abc", 1.0)
    found = step_pairs([expert], {"a": [step("a"), step("x"), None]})
    assert found.counts == {"same_actions": 1, "not_played": 1, "step_pairs": 1, "pairs": 1}
    (pair,) = found.pairs
    assert (actions(pair.chosen), actions(pair.rejected), pair.n_shared) == ("ab", "ax", 1)


def test_step_pairs_need_a_step_for_each_prefix() -> None:
    with pytest.raises(DataError, match="the agent has 2 steps and the expert 3"):
        step_pairs([episode("a", "abc", 1.0)], {"a": [step("a"), step("b")]})
    assert step_pairs([episode("a", "abc", 1.0)], {}).counts["not_played"] == 1


def test_a_mixture_has_both_kinds_of_pairs() -> None:
    expert = episode("a", "ab", 1.0)
    whole = trajectory_pairs([expert], [episode("a", "x", 0)])
    mixed = whole + step_pairs([expert], {"a": [step("x"), step("b")]})
    assert isinstance(mixed, Pairs)
    assert [p.n_shared for p in mixed.pairs] == [0, 0]
    assert (mixed.counts["pairs"], mixed.counts["lose"], mixed.counts["step_pairs"]) == (2, 1, 1)


def test_unknown_cut_and_negative_rounds_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'agent'"):
        trajectory_pairs([], [], cut="agnt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 0"):
        self_pairs([], extra_rounds=-1)
