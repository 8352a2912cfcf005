"""Worlds: the recorded transcripts, isolation, replay, and what happens when the process dies."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eto_envs.errors import BackendError
from eto_envs.scienceworld.bridge import Host, shared_host
from eto_envs.scienceworld.tasks import TASK_TYPES, simplifications_of
from eto_envs.scienceworld.world import Setup, World, describe

pytestmark = pytest.mark.java

BOIL = Setup("boil", 3, simplifications_of("boil", "eto"))


def setup_of(episode: Any) -> Setup:
    return Setup(episode["task"], episode["variation"], episode["simplification"])


def differences(world: World, episode: Any, *, wanted: int | None = None) -> list[str]:
    """The first step at which a world gives something else than was recorded."""
    begun = world.load(setup_of(episode))
    if begun.observation != episode["reset"]["observation"]:
        return ["reset"]
    for step in episode["steps"][:wanted]:
        outcome = world.step(step["action"])
        given = (outcome.observation, outcome.score, outcome.completed, outcome.ticks)
        if given != tuple(step[k] for k in ("observation", "raw_score", "completed", "moves")):
            return [step["action"]]
    return []


@pytest.mark.data
def test_recorded_episodes_are_given_byte_for_byte(java: str, golden: Any) -> None:
    world = World(java)
    bad = [(e["task"], d) for e in golden["uuid"] if (d := differences(world, e))]
    assert bad == []
    assert sum(len(e["steps"]) for e in golden["uuid"]) == 934
    texts = {f"Task Description:\n{describe(java, *setup_of(e)[:2])}" for e in golden["uuid"]}
    assert texts == {e["task_description"] for e in golden["uuid"]}


@pytest.mark.data
def test_many_worlds_do_not_touch_each_other(java: str, golden: Any) -> None:
    episodes = golden["uuid"][:64] + golden["etosim"][:8]
    order = random.Random(0)
    worlds = [World(java) for _ in episodes]
    alone = []
    for world, episode in zip(worlds, episodes, strict=True):
        world.load(setup_of(episode))
        alone.append([world.step(step["action"]) for step in episode["steps"]])
        world.load(setup_of(episode))
    together: list[list[Any]] = [[] for _ in episodes]
    turns = [i for i, episode in enumerate(episodes) for _ in episode["steps"]]
    order.shuffle(turns)
    for i in turns:
        together[i].append(worlds[i].step(episodes[i]["steps"][len(together[i])]["action"]))
    assert together == alone


@pytest.mark.data
def test_what_is_asked_for_beside_is_right_and_changes_nothing(java: str, golden: Any) -> None:
    world = World(java)
    for episode in golden["uuid"][::6]:
        world.load(setup_of(episode))
        for step in episode["steps"]:
            outcome = world.step(step["action"])
            assert outcome.observation == step["observation"]
            assert len(world.valid_actions()) == step["n_valid"]
            assert world.look() == step["look"]
            assert world.inventory() == step["inventory"]
            assert world.progress()


@pytest.fixture
def use_host(java: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Host]]:
    """Makes worlds live in a host of their own."""
    started: list[Host] = []

    def use(**kwargs: Any) -> Host:
        started.append(Host(java, **kwargs))
        monkeypatch.setattr("eto_envs.scienceworld.world.shared_host", lambda *args: started[-1])
        return started[-1]

    yield use
    for host in started:
        host.close()


@pytest.mark.data
def test_the_plain_way_gives_the_same(java: str, golden: Any, use_host: Any) -> None:
    assert not use_host(plain=True).is_fast
    world = World(java)
    assert [differences(world, episode) for episode in golden["uuid"][3::12]] == [[]] * 6


@pytest.mark.data
@pytest.mark.parametrize("name", ["hash2", "etosim"])
def test_episodes_recorded_under_another_order_of_sets(
    java: str, golden: Any, use_host: Any, name: str
) -> None:
    use_host(same_hash=True)
    world = World(java)
    bad = [(e["task"], d) for e in golden[name] if (d := differences(world, e))]
    assert bad == []


@pytest.mark.data
def test_eto_worlds_agree_where_the_order_of_sets_does_not_matter(java: str, golden: Any) -> None:
    world = World(java)
    same = [episode["task"] for episode in golden["etosim"] if not differences(world, episode)]
    assert len(same) == 38


def test_replay_is_exact_and_says_when_it_is_not(java: str) -> None:
    world, other = World(java), World(java)
    world.load(BOIL)
    actions = ["teleport to kitchen", "open cupboard", "wait", "open door", "1"]
    outcomes = [world.step(action) for action in actions]
    assert other.replay(BOIL, actions, outcomes[-1].digest) == outcomes[-1]
    assert other.step("look around") == world.step("look around")
    with pytest.raises(BackendError, match="gave different outcomes"):
        other.replay(BOIL, actions[:-1], outcomes[-1].digest)


def test_a_killed_process_fails_one_world_and_the_others_go_on(java: str) -> None:
    worlds = [World(java) for _ in range(3)]
    twins = [World(java) for _ in range(3)]
    for number, world in enumerate([*worlds, *twins]):
        world.load(Setup("melt", number % 3, BOIL.simplification))
        world.step("look around")
    os.kill(shared_host(java).pid, signal.SIGKILL)
    with pytest.raises(BackendError, match=r"action 'teleport to kitchen'.*exit status -9"):
        worlds[0].step("teleport to kitchen")
    after = [world.step("teleport to kitchen") for world in worlds[1:]]
    assert after == [twin.step("teleport to kitchen") for twin in twins[1:]]
    assert worlds[0].load(BOIL) == World(java).load(BOIL)


@pytest.mark.slow
def test_ten_kills(java: str) -> None:
    world, witness = World(java), World(java)
    witness.load(BOIL)
    expected = World(java).load(BOIL)
    n_failed = 0
    for number in range(10):
        assert world.load(BOIL) == expected
        os.kill(shared_host(java).pid, signal.SIGKILL)
        with pytest.raises(BackendError):
            world.step("look around")
        n_failed += 1
        assert witness.step("look around").observation
        assert len(witness.actions) == number + 1
    assert n_failed == 10


def test_actions_sent_ahead(java: str) -> None:
    worlds = [World(java) for _ in range(4)]
    for world in worlds:
        world.load(BOIL)
    for world in worlds:
        world.send("look around")
    assert len({world.step("look around") for world in worlds}) == 1
    worlds[0].send("teleport to kitchen")  # and not done after all
    assert worlds[0].step("inventory") == worlds[1].step("inventory")
    assert worlds[0].step("look around") == worlds[1].step("look around")


@pytest.mark.parametrize("n_workers", [2, 3])
def test_the_number_of_threads_changes_nothing(java: str, use_host: Any, n_workers: int) -> None:
    def play() -> list[list[Any]]:
        worlds = [World(java) for _ in range(7)]
        tasks = ("grow-plant", "boil", "grow-fruit", "find-animal", "chemistry-mix")
        for number, world in enumerate(worlds):
            task = tasks[number % len(tasks)]
            world.load(Setup(task, number, simplifications_of(task, "eto")))
        rounds = []
        for action in ("look around", "teleport to greenhouse", "wait", "open door", "0", "wait"):
            for world in worlds:
                world.send(action)
            rounds.append([world.step(action) for world in worlds])
        return [*rounds, [world.valid_actions() for world in worlds]]

    use_host(n_workers=1)
    expected = play()
    assert use_host(n_workers=n_workers).n_workers == n_workers
    assert play() == expected


def test_dropped_worlds_leave_the_process_as_it_was(java: str) -> None:
    for _ in range(3):
        world = World(java)
        world.load(BOIL)
        world.close()
    assert world.load(BOIL).observation


ODD = (
    "",
    " ",
    "\n",
    "look\naround",
    "\t\r\n\0",
    "x" * 10_000,
    "look around" * 1000,
    "é\u2028\U0001f600",
    "\ud800",
    "\x00\x00\x00\x05hello",
    "a|b(c[d{e*f+g?h^i$j\\k",
    "-1",
    "99999999999999999999",
    "OBJ",
    "{}{0}%s%n",
)


def test_odd_input_breaks_nothing(java: str) -> None:
    world, other = World(java), World(java)
    world.load(BOIL)
    other.load(BOIL)
    for action in ODD:
        outcome = world.step(action)
        assert outcome.observation
        assert outcome == other.step(action)
    assert world.step("LOOK around\n").observation.startswith("This outside location")


def test_what_was_never_loaded(java: str) -> None:
    with pytest.raises(BackendError, match="no task has been loaded"):
        World(java).step("look around")
    with pytest.raises(BackendError, match="there is no task boil/30"):
        World(java).load(BOIL._replace(variation=30))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASK_TYPES)
def test_fuzzed_actions_crash_nothing(java: str, task: str) -> None:
    """A thousand actions a task type, half of them put together from the simulator's own words."""
    rng = random.Random(task)
    pid = shared_host(java).pid
    world = World(java)
    n_done = 0
    while n_done < 1000:
        setup = Setup(task, rng.randrange(TASK_TYPES[task].n_variations), "easy")
        world.load(setup)
        words = " ".join(world.valid_actions()).split()
        for _ in range(50):
            if rng.random() < 0.5:
                action = rng.choice(world.valid_actions()) if n_done % 25 == 0 else rng.choice(ODD)
            else:
                action = " ".join(rng.choices(words, k=rng.randrange(1, 7)))
            outcome = world.step(action)
            assert outcome.observation
            assert outcome.score == -1.0 or 0.0 <= outcome.score <= 1.0
            n_done += 1
            if outcome.completed or outcome.score < 0:
                break
    assert shared_host(java).pid == pid
