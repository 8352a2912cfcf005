"""The failure rules: what each finds, what it leaves alone, and which is the main one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from eto_agents.evaluation.failures import N_REPEATS, N_STALE, failures, rules
from eto_agents.evaluation.harness import evaluate
from eto_agents.rollout import run_episode
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Step, Trajectory
from eto_agents.worlds import Failure
from tests.toy import CORRIDOR

GOAL = "i need a shoe in sand beige, 6 pack, and price lower than 40.00 dollars"
ITEM = (
    f"Instruction: [SEP] {GOAL} [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] beige [SEP] "
    "sand beige [SEP] number of items [SEP] 6 pack [SEP] 12 pack [SEP] A Shoe [SEP] "
    "Price: $39.50 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
)
RECEIPT = (
    "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] Purchased [SEP] asin [SEP] "
    'B000000001 [SEP] options [SEP] {"color": "beige"} [SEP] attrs [SEP] None'
)


def step(action: str = "go", observation: str = "a room", **changes: Any) -> Step:
    values: dict[str, Any] = {
        "reward": 0.0,
        "task_reward": 0.0,
        "reward_terms": {},
        "score": 0.0,
        "is_valid": True,
    }
    return Step(action, observation, **(values | changes))


def episode(steps: list[Step], **changes: Any) -> Trajectory:
    base = Trajectory(
        env_id="ETO-ALFWorld-v0",
        world="alfworld",
        dataset="toy",
        split="seen",
        tasks_sha256="0" * 64,
        task_id="t",
        kind="k",
        goal="do it",
        seed=0,
        policy="p",
        initial_observation="the beginning",
        messages=[],
        steps=steps,
        status="truncated",
        score=0.0,
        success=False,
    )
    return dataclasses.replace(base, **changes)


def walk(n: int) -> list[Step]:
    """Steps that all do and show something new."""
    return [step(f"go {i}", f"room {i}") for i in range(n)]


def purchase(item: str = ITEM, receipt: str = RECEIPT, **changes: Any) -> Trajectory:
    steps = [step("click[b000000001]", item), step("click[buy now]", receipt)]
    shop = {
        "env_id": "ETO-WebShop-v0",
        "world": "webshop",
        "goal": GOAL,
        "status": "completed",
        "score": 0.5,
    }
    return episode(steps, **(shop | changes))


def kinds(t: Trajectory) -> list[str]:
    return [failure.kind for failure in failures(t)]


def test_success_and_cancelled_have_none() -> None:
    bad = [step("x", "same", is_valid=False)] * 9
    assert failures(episode(bad, status="completed", success=True, score=1.0)) == []
    assert failures(episode(bad, status="cancelled")) == []


def test_the_limit() -> None:
    assert failures(episode(walk(7), score=0.25)) == [Failure("limit", "7 steps, score 0.25")]


@pytest.mark.parametrize(("n", "is_loop"), [(N_REPEATS, True), (N_REPEATS - 1, False)])
def test_a_loop_is_the_same_action_in_the_same_situation(n: int, is_loop: bool) -> None:
    back_and_forth = [step("east", "there"), step("west", "here")] * n
    t = episode(back_and_forth, initial_observation="here")
    assert ("loop" in kinds(t)) is is_loop
    if is_loop:
        found = failures(t)[0]
        assert (found.kind, found.detail) == ("loop", f"{n} × 'east'")
        assert found.steps == tuple(range(0, 2 * n, 2))


def test_the_same_action_elsewhere_is_no_loop() -> None:
    assert kinds(episode([step("wait", f"hour {i}") for i in range(9)])) == ["limit"]


def test_a_loop_may_be_broken_up() -> None:
    steps = [step("look", "here"), step("go", "there"), step("come", "here")] * N_REPEATS
    found = failures(episode(steps, initial_observation="here"))
    assert found[0] == Failure("loop", f"{N_REPEATS} × 'look'", (0, 3, 6))


@pytest.mark.parametrize(("n_stale", "gave_up"), [(N_STALE, True), (N_STALE - 1, False)])
def test_giving_up_is_nothing_new_at_the_end(n_stale: int, gave_up: bool) -> None:
    idle = [step(f"try {i}", "room 1") for i in range(n_stale)]
    found = failures(episode([*walk(3), *idle]))
    assert ("gave_up" in [f.kind for f in found]) is gave_up
    if gave_up:
        assert found[0] == Failure(
            "gave_up", f"nothing new in the last {n_stale} steps", tuple(range(3, 3 + n_stale))
        )


def test_a_higher_score_is_something_new() -> None:
    idle = [step(f"try {i}", "room 1") for i in range(N_STALE)]
    idle[-1] = step("try", "room 1", score=0.1)
    assert kinds(episode([*walk(3), *idle], score=0.1)) == ["limit"]


def test_invalid_actions_are_the_main_kind_only_if_they_are_many() -> None:
    few = walk(6)
    few[2] = dataclasses.replace(few[2], is_valid=False)
    assert failures(episode(few))[1] == Failure("invalid_actions", "1 of 6 actions rejected", (2,))
    many = [dataclasses.replace(s, is_valid=i % 2 == 0) for i, s in enumerate(walk(6))]
    assert kinds(episode(many)) == ["invalid_actions", "limit"]


def test_format_errors_are_no_invalid_actions() -> None:
    steps = walk(4)
    usage = {"format_errors": 1.0, "cut_off": 1.0}
    steps[1] = step("", "what?", is_valid=False, text="I wonder", usage=usage)
    steps[2] = step("", "what now?", is_valid=False, text="I wonder still")  # without the count
    found = failures(episode(steps))
    detail = "2 of 4 steps, 1 cut off at the token limit"
    assert found[0] == Failure("format_errors", detail, (1, 2))
    assert [f.kind for f in found] == ["format_errors", "limit"]


def test_an_error_comes_first() -> None:
    loop = [step("look", "here")] * 5
    error = "ValueError: no model\nTraceback …"
    found = failures(episode(loop, status="agent_error", error=error))
    assert found[0] == Failure("agent_error", "ValueError: no model")
    assert found[1].kind == "loop"
    assert kinds(episode([], status="env_error", error="")) == ["env_error"]


def test_a_task_that_ends_badly_has_failed() -> None:
    t = episode(walk(2), status="completed", env_id="ETO-ScienceWorld-v0", score=0.3)
    assert failures(t) == [Failure("task_failed", "ended with score 0.30", (1,))]


def test_a_wrong_purchase_says_which_options_were_missed() -> None:
    expected = "score 0.50; asked for and not chosen: 6 pack, sand beige"
    assert failures(purchase()) == [Failure("wrong_purchase", expected, (1,))]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        (
            {
                "item": ITEM.replace("$39.50", "$41.00"),
                "receipt": RECEIPT.replace('"beige"', '"sand beige", "n": "6 pack"'),
            },
            "score 0.50; price $41.00 above $40.00",
        ),
        (
            {"receipt": RECEIPT.replace('"beige"', '"sand beige", "n": "6 Pack"')},
            "score 0.50; attributes or options missed, the log does not say which",
        ),
        (
            {"item": ITEM.replace("$39.50", "$30.0 to $50.0"), "goal": "a shoe"},
            "score 0.50; attributes or options missed, the log does not say which",
        ),
        ({"score": 0.0}, "score 0.00; another kind of product, or nothing of what was asked for"),
        (
            {"item": "[button] Buy Now [button_]", "receipt": "Thank you for shopping with us!\n"},
            "score 0.50; attributes or options missed, the log does not say which",
        ),
    ],
)
def test_what_a_purchase_missed(changes: dict[str, Any], detail: str) -> None:
    assert failures(purchase(**changes))[0].detail == detail


def test_reward_terms_are_believed_where_the_log_has_them() -> None:
    t = purchase()
    terms = {"r_type": 1.0, "r_option": 0.5, "step_cost": -0.1}
    t.steps[-1] = dataclasses.replace(t.steps[-1], reward_terms=terms)
    assert failures(t)[0].detail == "score 0.50; r_option 0.50"


def test_buying_nothing_is_giving_up() -> None:
    t = episode(walk(3), env_id="ETO-WebShop-v0", world="webshop")
    assert kinds(t) == ["gave_up", "limit"]
    assert failures(t)[0] == Failure("gave_up", "nothing was bought", (2,))


def test_a_shop_s_words_elsewhere_are_no_purchase() -> None:
    t = purchase(env_id="ETO-ALFWorld-v0", world="alfworld")
    assert kinds(t) == ["task_failed"]


def test_a_world_s_own_kinds_come_after_errors() -> None:
    assert [*rules()][:4] == ["env_error", "agent_error", "wrong_purchase", "task_failed"]


def test_the_rules_fit_what_the_shop_really_says(tmp_path: Any) -> None:
    class Hasty:
        """Buys the first product it sees, without choosing anything."""

        reveal = ("admissible_actions",)

        def reset(self, task: Any, seed: int) -> None:
            self.query = f"search[{task.goal}]"

        def act(self, observation: str, info: Any) -> str:
            actions = info["admissible_actions"]
            if "search[<keywords>]" in actions:
                return str(self.query)
            return "click[buy now]" if "click[buy now]" in actions else str(actions[2])

    evaluate(
        Hasty,
        "ETO-WebShop-v0",
        ("seen",),
        n_tasks=40,
        env_args={"dataset": "mini"},
        out=tmp_path,
    )
    episodes = list(TrajectoryStore(tmp_path / "episodes.jsonl").read())
    failed = [t for t in episodes if not t.success]
    assert len(failed) > 10
    assert all(kinds(t)[0] == "wrong_purchase" for t in failed)
    details = [failures(t)[0].detail for t in failed]
    assert any("asked for and not chosen" in detail for detail in details)


def test_every_failed_episode_has_a_kind() -> None:
    t = run_episode("random", CORRIDOR, "room6", n=5)
    assert t.success or failures(t)
