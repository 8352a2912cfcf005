from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from eto_envs.alfworld.data.datasets import KINDS, MAX_STEPS, open_mini, task_set
from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.problem import members
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.alfworld.experts.explorer import Explorer, read_task
from eto_envs.alfworld.experts.planner import shortest_plan
from eto_envs.alfworld.mini.games import N_GAMES, write_mini
from eto_envs.alfworld.mini.rules import Draw, read_rules
from eto_envs.tasks import Task


class Parts(NamedTuple):
    """What the id of a game says."""

    kind: str
    thing: str
    target: str
    scene: str


def parts_of(task_id: str) -> Parts:
    kind, thing, _, target, scene = task_id.partition("/")[0].split("-")
    return Parts(kind, thing, target, scene)


@pytest.fixture(scope="module")
def pack() -> Pack:
    return open_mini().pack


@pytest.fixture(scope="module")
def parts(pack: Pack) -> dict[str, list[Parts]]:
    return {split: [parts_of(task_id) for task_id in ids] for split, ids in pack.splits.items()}


@pytest.fixture(scope="module")
def games(pack: Pack) -> dict[str, list[Game]]:
    return {
        split: [Game(pack.problem(task_id)) for task_id in ids]
        for split, ids in pack.splits.items()
    }


def test_the_shipped_pack_is_what_the_generator_makes(tmp_path: Path, pack: Pack) -> None:
    first, second = tmp_path / "first.gz", tmp_path / "second.gz"
    assert write_mini(first).sha256 == write_mini(second).sha256 == pack.sha256
    assert first.read_bytes() == second.read_bytes()
    assert pack.path.stat().st_size < 400_000


@pytest.mark.slow
def test_more_rounds_add_train_games_in_other_rooms(
    pack: Pack, parts: dict[str, list[Parts]], tmp_path: Path
) -> None:
    larger = write_mini(tmp_path / "larger.pack", n_rounds=2)
    train = set(larger.splits["train"])
    assert len(train) >= 2 * N_GAMES["train"] - 5  # some draws make no game that can be won
    assert set(pack.splits["train"]) < train
    more = [parts_of(task_id) for task_id in train - set(pack.splits["train"])]
    of_old = {row.scene for rows in parts.values() for row in rows}
    assert len({row.scene for row in more}) == 36
    assert not of_old & {row.scene for row in more}
    unseen = {(row.thing, row.target) for row in parts["unseen"]}
    assert not unseen & {(row.thing, row.target) for row in more}
    for split in ("seen", "unseen"):
        assert larger.splits[split] == pack.splits[split]
        for task_id in pack.splits[split]:
            assert larger.digest(task_id) == pack.digest(task_id)


def test_splits(parts: dict[str, list[Parts]]) -> None:
    assert {split: len(rows) for split, rows in parts.items()} == N_GAMES
    for split, rows in parts.items():
        counts = Counter(row.kind for row in rows)
        assert set(counts) == set(KINDS)
        assert min(counts.values()) >= N_GAMES[split] // len(KINDS)


def test_seen_games_ask_for_other_things_in_the_rooms_of_train(
    parts: dict[str, list[Parts]],
) -> None:
    assert not set(parts["seen"]) & set(parts["train"])
    assert {row.scene for row in parts["seen"]} <= {row.scene for row in parts["train"]}


def test_unseen_games_have_rooms_and_pairs_of_their_own(parts: dict[str, list[Parts]]) -> None:
    for split in ("train", "seen"):
        assert not {row.scene for row in parts["unseen"]} & {row.scene for row in parts[split]}
        pairs = {(row.thing, row.target) for row in parts[split]}
        assert not pairs & {(row.thing, row.target) for row in parts["unseen"]}


def test_a_scene_is_one_room(pack: Pack) -> None:
    rooms: dict[str, set[object]] = {}
    for task_id in pack.splits["train"] + pack.splits["seen"]:
        problem = pack.problem(task_id)
        room = (problem.receptacles, problem.receptacle_locations, problem.openable)
        rooms.setdefault(parts_of(task_id).scene, set()).add(room)
    assert len(rooms) == 36
    assert all(len(versions) == 1 for versions in rooms.values())
    assert len({next(iter(versions)) for versions in rooms.values()}) == 36
    hundreds = Counter(scene[:2] for scene in rooms)
    assert sorted(hundreds) == ["10", "12", "13", "14"]
    assert min(hundreds.values()) >= 5


def test_every_game_says_what_its_id_says(pack: Pack) -> None:
    for task in task_set(open_mini(), "all"):
        goal, parts = pack.problem(task.id).goal, parts_of(task.id)
        assert read_task(task.goal) == goal
        assert goal[1:] == (parts.thing.lower(), parts.target.lower())
        assert task.kind == parts.kind
        assert goal.kind in parts.kind or goal.kind == "place"


@pytest.mark.parametrize("split", N_GAMES)
def test_every_game_can_be_won_and_is_not_won_already(
    games: dict[str, list[Game]], split: str
) -> None:
    for game in games[split]:
        state, won = game.start, game.is_won(game.start)
        assert not won
        plan = shortest_plan(game, state)
        assert plan is not None
        assert 3 <= len(plan) <= 15
        for command in plan:
            assert not won
            state, _, won = step(game, state, command)
        assert won


@pytest.mark.parametrize("split", N_GAMES)
def test_sizes(games: dict[str, list[Game]], split: str) -> None:
    n_hidden = n_shared = 0
    for game in games[split]:
        problem = game.problem
        assert 6 <= len(problem.receptacles) <= 25
        assert 15 <= len(problem.objects) <= 50
        assert not problem.opened
        wanted = game.goal_objects
        assert problem.traits["pickupable"] & wanted == wanted
        found_in = {r for r, inside in enumerate(problem.contents) if inside & wanted}
        n_hidden += all(problem.openable >> r & 1 for r in found_in)
        n_shared += max(map(len, game.receptacles_at)) > 1
    assert 0.1 < n_hidden / len(games[split]) < 0.5
    assert n_shared > 0.5 * len(games[split])


def test_objects_lie_where_they_may(games: dict[str, list[Game]]) -> None:
    for game in games["train"]:
        problem = game.problem
        assert sum(mask.bit_count() for mask in problem.contents) == len(problem.objects)
        for receptacle, inside in enumerate(problem.contents):
            loose = inside & problem.traits["pickupable"]
            assert loose & problem.accepts[receptacle] == loose
            location = problem.receptacle_locations[receptacle]
            assert inside & problem.objects_at[location] == inside
            for lamp in members(inside & ~loose):
                assert problem.object_types[lamp] == "desklamp"


def test_locations_have_receptacles_but_for_the_first(games: dict[str, list[Game]]) -> None:
    for game in games["unseen"]:
        empty = [at for at, here in enumerate(game.receptacles_at) if not here]
        assert empty == [game.problem.start]


def explorer_wins(game: Game, seed: int) -> bool:
    explorer = Explorer()
    explorer.reset(Task(id="mini", goal="", max_steps=MAX_STEPS), seed)
    state, answer = game.start, introduction(game).partition("\n\n")[2]
    for _ in range(MAX_STEPS):
        command = explorer.act(answer, {"grammar": game.grammar})
        state, answer, won = step(game, state, command)
        if won:
            return True
    return False


def random_wins(game: Game, seed: int) -> bool:
    rng, state = random.Random(seed), game.start
    for _ in range(MAX_STEPS):
        state, _, won = step(game, state, rng.choice(admissible_commands(game, state)))
        if won:
            return True
    return False


@pytest.mark.parametrize(
    ("wins", "least", "most"), [(explorer_wins, 0.95, 1.0), (random_wins, 0.0, 0.03)]
)
@pytest.mark.parametrize("split", N_GAMES)
def test_what_simple_players_reach(
    games: dict[str, list[Game]],
    split: str,
    wins: Callable[[Game, int], bool],
    least: float,
    most: float,
) -> None:
    n_wins = sum(wins(game, seed) for seed, game in enumerate(games[split]))
    assert least <= n_wins / len(games[split]) <= most


def test_both_wordings(pack: Pack) -> None:
    one, other = open_mini(), open_mini("mini-2.1.2")
    assert one.pack is other.pack
    assert (one.grammar, other.grammar) == ("2.1.1", "2.1.2")
    assert task_set(one, "seen").ids == task_set(other, "seen").ids
    assert task_set(one, "seen").sha256 != task_set(other, "seen").sha256


def test_every_rule_is_of_use() -> None:
    rules = read_rules()
    found = {thing for room in rules.rooms.values() for thing in room.objects}
    assert found == set(rules.places)
    receptacles = {kind for room in rules.rooms.values() for kind in room.receptacles}
    named = {kind for places in rules.places.values() for kind in places}
    assert named <= receptacles
    assert rules.doors | rules.for_one <= receptacles
    for room in rules.rooms.values():
        for thing in room.objects:
            assert any(rules.places[thing].get(kind) for kind in room.receptacles)


def test_draws() -> None:
    draw = Draw(5, "a")
    assert sorted(draw.shuffled(range(20))) == list(range(20))
    assert {draw.pick("ab") for _ in range(50)} == {"a", "b"}
    assert {draw.number(2, 4) for _ in range(50)} == {2, 3, 4}
    counts = Counter(draw.weighted({"a": 3, "b": 1, "c": 0}) for _ in range(400))
    assert set(counts) == {"a", "b"}
    assert counts["a"] > 2 * counts["b"]
    assert Draw(5).shuffled(range(99)) == Draw(5).shuffled(range(99)) != Draw(6).shuffled(range(99))
