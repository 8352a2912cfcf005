"""The mini games: a household of our own, in three splits.

``python -m eto_envs.alfworld.mini FILE [ROUNDS]`` writes them as a pack: 600 train, 100 seen and
100 unseen games in kitchens, bedrooms, bathrooms and living rooms that `rooms` draws. The seen
split asks for other things in the rooms of train; the unseen split has rooms of its own, and no
train game pairs the object and the receptacle (or lamp) that one of its games is about. Every game
can be won, as the planner shows, and none is won at the beginning. Games are the same on every
machine: all draws go through `random.Random.random`. `games.pack.gz` beside this file is what
it writes. No official game or room is copied, but type names, the wording of tasks and what can be
done with which object are the original's. Scores compare with nothing published.
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
# Scenes of train and seen, and scenes of unseen.
_N_SCENES = {"kitchen": (12, 4), "livingroom": (8, 3), "bedroom": (9, 3), "bathroom": (7, 3)}
_N_TRIES = 100  # of furnishing a room so that the game is one
_SCENES_OF_ROUND = 1000  # between the numbers of a round of train games and the next
_HELD_OUT_SHARE = 0.25  # of the pairs of an object and a receptacle are kept for unseen
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
"""A room and what is to be done in it."""


def write_mini(target: Path, n_rounds: int = 1) -> Pack:
    """Draw all games and write them as a pack.

    Args:
        target: the pack's file.
        n_rounds: how often as many train games are drawn; those of each further round are in rooms
            of their own, and ask for nothing that is kept for unseen. Seen and unseen stay as they
            are.
    """
    rules = read_rules()
    known, new = _draw_scenes(rules)
    held_out = _draw_held_out(rules)

    def choose(split: str, scenes: Sequence[Scene], taken: Sequence[Request], *name: int) -> None:
        for place, kind in enumerate(_TASK_TYPES):
            requests = [
                request
                for request in _requests(rules, scenes, kind)
                if request not in taken and (request[1][1:] in held_out) == (split == "unseen")
            ]
            n_of_kind = (N_GAMES[split] + place) // len(_TASK_TYPES)
            chosen[split] += _spread(Draw(_SEED, split, kind, *name), requests, n_of_kind)

    chosen: dict[str, list[Request]] = {split: [] for split in N_GAMES}
    choose("train", known, ())
    choose("seen", known, tuple(chosen["train"]))
    choose("unseen", new, ())
    for n_round in range(2, n_rounds + 1):
        choose("train", _draw_scenes(rules, _SCENES_OF_ROUND * n_round)[0], (), n_round)
    games: dict[str, dict[str, Problem]] = {}
    for split, requests in chosen.items():
        made = {_task_id(*request): _make(rules, *request) for request in requests}
        lost = [r for r in requests[: N_GAMES[split]] if not made[_task_id(*r)]]
        if lost:  # later rounds may lose a game, the splits may not
            raise ValueError(f"no game of {_task_id(*lost[0])} can be won")
        games[split] = {name: game for name, game in sorted(made.items()) if game}
    return write_pack(target, games, GRAMMARS[0])


def _draw_scenes(rules: Rules, offset: int = 0) -> tuple[list[Scene], list[Scene]]:
    """The scenes of train and seen, and those of unseen; `offset` is added to their numbers."""
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
    """The pairs of an object and a receptacle, or a lamp, that only unseen games are about."""
    draw = Draw(_SEED, "held out")
    return {
        (thing, target)
        for thing, places in rules.places.items()
        for target in (*places, *rules.lamps)
        if draw.share() < _HELD_OUT_SHARE
    }


def _requests(rules: Rules, scenes: Sequence[Scene], kind: str) -> Iterator[Request]:
    """All that can be asked for in some scenes."""
    for scene in scenes:
        if kind in TREATMENTS and TREATMENTS[kind].appliance not in map(str.lower, scene.kinds):
            continue
        for thing in rules.rooms[scene.room].objects:
            if kind in TREATMENTS and kind not in rules.uses[thing]:
                continue
            for target in _targets(rules, scene, kind, thing):
                yield scene, Wanted(kind, thing, target)


def _targets(rules: Rules, scene: Scene, kind: str, thing: str) -> Iterator[str]:
    """The receptacles or lamps of a scene that a game about an object can ask for."""
    if kind == "look":
        if scene.has_lamp:
            yield from rules.lamps
        return
    places = rules.places[thing]
    found_in = {place for place in scene.kinds if places.get(place)}
    for target in sorted(set(scene.kinds) & set(places)):
        is_apt = kind != "two" or target not in rules.for_one
        is_other = kind not in TREATMENTS or target.lower() != TREATMENTS[kind].appliance
        if is_apt and is_other and found_in - {target}:
            yield target


def _spread(draw: Draw, requests: Sequence[Request], n: int) -> list[Request]:
    """Some of the requests, about as many of each scene."""
    of_scene: dict[int, list[Request]] = {}
    for request in draw.shuffled(requests):
        of_scene.setdefault(request[0].number, []).append(request)
    ranked = [
        (rank, place, request)
        for place, own in enumerate(of_scene.values())
        for rank, request in enumerate(own)
    ]
    if len(ranked) < n:
        raise ValueError(f"{n} requests are wanted, there are {len(ranked)}")
    return [request for _, _, request in sorted(ranked, key=lambda row: row[:2])[:n]]


def _task_id(scene: Scene, wanted: Wanted) -> str:
    kind, thing, target = wanted
    return f"{_TASK_TYPES[kind]}-{thing}-None-{target}-{scene.number}/trial_1"


def _make(rules: Rules, scene: Scene, wanted: Wanted) -> Problem | None:
    """A game that can be won and is not won already, if there is one."""
    draw = Draw(_SEED, _task_id(scene, wanted))
    words = draw.pick(_TEXTS[wanted.kind]).format(wanted.thing.lower(), wanted.target.lower())
    for _ in range(_N_TRIES):
        problem = furnish(draw, rules, scene, wanted, f"Your task is to: {words}.")
        game = Game(problem)
        if not game.is_won(game.start) and shortest_plan(game, game.start):
            return problem
    return None
