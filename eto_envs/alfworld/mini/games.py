"""The mini games: generated household tasks in three splits.

``python -m eto_envs.alfworld.mini FILE [ROUNDS]`` writes them as a pack: 600 train, 100 seen and
100 unseen games in kitchens, bedrooms, bathrooms and living rooms drawn by `rooms`. The seen games
have other goals in the rooms of the train games. The unseen games have their own rooms, and no
train game has the same combination of object and receptacle (or lamp). The planner confirms that
every game can be won, and that none is won initially. The games are the same on every machine: all
draws use `random.Random.random`. `games.pack.gz` in this folder is the result. No official game or
room is copied; only type names, the wording of tasks and what can be done with which object are the
original's. Scores are not comparable with published results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

from eto_envs.alfworld.data.pack import Pack, write_pack
from eto_envs.alfworld.engine.game import GRAMMARS, TREATMENTS, Game
from eto_envs.alfworld.engine.problem import Problem
from eto_envs.alfworld.experts.planner import shortest_plan
from eto_envs.alfworld.mini.rooms import Scene, Wanted, draw_scene, furnish
from eto_envs.alfworld.mini.rules import Draw, Rules, read_rules

N_GAMES: Final = {"train": 600, "seen": 100, "unseen": 100}

_SEED = 11
# Number of scenes for train and seen, and for unseen.
_N_SCENES = {"kitchen": (12, 4), "livingroom": (8, 3), "bedroom": (9, 3), "bathroom": (7, 3)}
_N_TRIES = 100  # attempts to furnish a room so that the game can be won and is not won yet
_SCENES_OF_ROUND = 1000  # offset between the scene numbers of consecutive rounds
_HELD_OUT_FRACTION = 0.25  # of the pairs of object and receptacle, reserved for unseen
_TASK_TYPES = {
    "place": "pick_and_place_simple",
    "look": "look_at_obj_in_light",
    "clean": "pick_clean_then_place_in_recep",
    "heat": "pick_heat_then_place_in_recep",
    "cool": "pick_cool_then_place_in_recep",
    "two": "pick_two_obj_and_place",
}
_TEXTS = {
    "place": ("put a {} in {}", "put some {} on {}"),
    "look": ("look at {} under the {}", "examine the {} with the {}"),
    "clean": ("put a clean {} in {}", "clean some {} and put it in {}"),
    "heat": ("put a hot {} in {}", "heat some {} and put it in {}"),
    "cool": ("put a cool {} in {}", "cool some {} and put it in {}"),
    "two": ("put two {} in {}", "find two {} and put them in {}"),
}

Request: TypeAlias = tuple[Scene, Wanted]
"""A room and a goal in it."""


def write_mini(target: Path, n_rounds: int = 1) -> Pack:
    """Draw all games and write them as a pack.

    Args:
        target: the file of the pack.
        n_rounds: the number of rounds of train games. The games of each further round have their
            own rooms, and no goal that is reserved for unseen. Seen and unseen do not change.
    """
    rules = read_rules()
    known, new = _draw_scenes(rules)
    chosen = {"train": _choose(rules, "train", known)}
    chosen["seen"] = _choose(rules, "seen", known, taken=chosen["train"])
    chosen["unseen"] = _choose(rules, "unseen", new)
    games = {split: _make_all(rules, requests) for split, requests in chosen.items()}
    for split, requests in chosen.items():
        failed = {_task_id(*request) for request in requests} - games[split].keys()
        if failed:  # tolerated only in later rounds
            raise ValueError(f"no game of {min(failed)} can be won")
    for n_round in range(2, n_rounds + 1):
        games["train"] |= _games_of_round(rules, n_round)
    games = {split: dict(sorted(of_split.items())) for split, of_split in games.items()}
    return write_pack(target, games, GRAMMARS[0])


def write_other_games(target: Path, rounds: Sequence[int]) -> Pack:
    """Write games in further rooms as a pack whose only split is train.

    Args:
        target: the file of the pack.
        rounds: numbers of rounds, from 2; `write_mini` with `n_rounds` uses those up to `n_rounds`.
    """
    rules = read_rules()
    games = [_games_of_round(rules, n_round) for n_round in rounds]
    train = {name: game for of_round in games for name, game in of_round.items()}
    return write_pack(target, {"train": dict(sorted(train.items()))}, GRAMMARS[0])


def _games_of_round(rules: Rules, n_round: int) -> dict[str, Problem]:
    """The train games of a round after the first, in rooms of their own."""
    scenes = _draw_scenes(rules, _SCENES_OF_ROUND * n_round)[0]
    return _make_all(rules, _choose(rules, "train", scenes, name=(n_round,)))


def _choose(
    rules: Rules,
    split: str,
    scenes: Sequence[Scene],
    *,
    taken: Sequence[Request] = (),
    name: tuple[int, ...] = (),
) -> list[Request]:
    """A split's goals in some scenes, as many of each kind; `name` seeds the draws of a round."""
    held_out = _draw_held_out(rules)
    chosen: list[Request] = []
    for place, kind in enumerate(_TASK_TYPES):
        requests = [
            request
            for request in _requests(rules, scenes, kind)
            if request not in taken and (request[1][1:] in held_out) == (split == "unseen")
        ]
        n_of_kind = (N_GAMES[split] + place) // len(_TASK_TYPES)
        chosen += _spread(Draw(_SEED, split, kind, *name), requests, n_of_kind)
    return chosen


def _make_all(rules: Rules, requests: Sequence[Request]) -> dict[str, Problem]:
    """The games by task id, without those that cannot be won."""
    made = {_task_id(*request): _make(rules, *request) for request in requests}
    return {name: game for name, game in made.items() if game}


def _draw_scenes(rules: Rules, offset: int = 0) -> tuple[list[Scene], list[Scene]]:
    """The scenes for train and seen, and for unseen; `offset` is added to their numbers."""
    known: list[Scene] = []
    new: list[Scene] = []
    for name, room in rules.rooms.items():
        n_known, n_new = _N_SCENES[name]
        for n in range(1, n_known + n_new + 1):
            number = offset + room.first_scene + n
            scene = draw_scene(Draw(_SEED, "scene", number), name, room, number)
            (known if n <= n_known else new).append(scene)
    return known, new


def _draw_held_out(rules: Rules) -> set[tuple[str, str]]:
    """The pairs of object and receptacle (or lamp) that are reserved for unseen games."""
    draw = Draw(_SEED, "held out")
    return {
        (thing, target)
        for thing, places in rules.places.items()
        for target in (*places, *rules.lamps)
        if draw.uniform() < _HELD_OUT_FRACTION
    }


def _requests(rules: Rules, scenes: Sequence[Scene], kind: str) -> Iterator[Request]:
    """All possible goals of a kind in some scenes."""
    for scene in scenes:
        if kind in TREATMENTS and TREATMENTS[kind].appliance not in map(str.lower, scene.kinds):
            continue
        for thing in rules.rooms[scene.room].objects:
            if kind in TREATMENTS and kind not in rules.uses[thing]:
                continue
            for target in _targets(rules, scene, kind, thing):
                yield scene, Wanted(kind, thing, target)


def _targets(rules: Rules, scene: Scene, kind: str, thing: str) -> Iterator[str]:
    """The receptacles or lamps of a scene that can be the target for an object."""
    if kind == "look":
        if scene.has_lamp:
            yield from rules.lamps
        return
    places = rules.places[thing]
    found_in = {place for place in scene.kinds if places.get(place)}
    for target in sorted(set(scene.kinds) & set(places)):
        has_room = kind != "two" or target not in rules.for_one
        is_no_appliance = kind not in TREATMENTS or target.lower() != TREATMENTS[kind].appliance
        if has_room and is_no_appliance and found_in - {target}:  # found elsewhere, too
            yield target


def _spread(draw: Draw, requests: Sequence[Request], n: int) -> list[Request]:
    """A random selection of `n` requests, about equally many from each scene."""
    by_scene: dict[int, list[Request]] = {}
    for request in draw.shuffled(requests):
        by_scene.setdefault(request[0].number, []).append(request)
    # Round-robin: the first request of every scene, then the second of every scene, and so on.
    ranked = [
        (rank, place, request)
        for place, own in enumerate(by_scene.values())
        for rank, request in enumerate(own)
    ]
    if len(ranked) < n:
        raise ValueError(f"cannot select {n} of {len(ranked)} requests")
    return [request for _, _, request in sorted(ranked, key=lambda row: row[:2])[:n]]


def _task_id(scene: Scene, wanted: Wanted) -> str:
    kind, thing, target = wanted
    return f"{_TASK_TYPES[kind]}-{thing}-None-{target}-{scene.number}/trial_1"


def _make(rules: Rules, scene: Scene, wanted: Wanted) -> Problem | None:
    """A game that can be won and is not won initially; None if none was found."""
    draw = Draw(_SEED, _task_id(scene, wanted))
    words = draw.pick(_TEXTS[wanted.kind]).format(wanted.thing.lower(), wanted.target.lower())
    for _ in range(_N_TRIES):
        problem = furnish(draw, rules, scene, wanted, f"Your task is to: {words}.")
        game = Game(problem)
        if not game.is_won(game.start) and shortest_plan(game, game.start):
            return problem
    return None
