"""Finds the games in an unpacked folder of official files.

The layout is ``json_2.1.1/<split>/<task>/<trial>/game.tw-pddl``, with the same name in releases
2.1.1 and 2.1.2. The selection of games follows `collect_game_files` of alfworld 0.4.2
(`alfworld/agents/environment/alfred_tw_env.py`): solvable games without movable receptacles or
sliced objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from eto_envs.errors import DataNotFoundError

FOLDERS: Final = {
    "train": "train",
    "seen": "valid_seen",
    "unseen": "valid_unseen",
    "valid_train": "valid_train",
}
"""The name of each split's folder."""

GAME_FILE: Final = "game.tw-pddl"

# A game of 2.1.1 that is missing from 2.1.2: its domain was regenerated, and the published lists of
# 3,553 training games do not include it.
_DROPPED = (
    "pick_clean_then_place_in_recep-Cloth-None-BathtubBasin-413/trial_T20190908_065418_661400"
)


class Found(NamedTuple):
    """A game file in a folder.

    Attributes:
        split: one of `FOLDERS`.
        task_id: ``"<task>/<trial>"``, the names of its two folders.
        path: the path of the file.
    """

    split: str
    task_id: str
    path: Path


def find_games(folder: Path) -> list[Found]:
    """The game files of the canonical splits in an unpacked folder, in a fixed order.

    Games with movable receptacles or sliced objects are omitted. Whether a game is solvable is only
    known once its file is read.

    Args:
        folder: ``json_2.1.1``, or the folder that contains it.

    Raises:
        DataNotFoundError: there is no such folder, or it contains no games.
    """
    return list(_find_games(_root(folder)))


def _root(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataNotFoundError(f"there is no folder {folder}")
    for root in (folder, folder / "json_2.1.1"):
        if any((root / name).is_dir() for name in FOLDERS.values()):
            return root
    raise DataNotFoundError(
        f"{folder}: expected json_2.1.1/<split>/<task>/<trial>/{GAME_FILE} in it, with the splits "
        f"{', '.join(FOLDERS.values())}; found {_names_in(folder)}"
    )


def _names_in(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "nothing"


def _find_games(root: Path) -> Iterator[Found]:
    n_found = 0
    for split, name in FOLDERS.items():
        for path in sorted((root / name).glob(f"*/*/{GAME_FILE}"), key=lambda p: p.parts):
            task_id = f"{path.parts[-3]}/{path.parts[-2]}"
            if "movable" in task_id or "Sliced" in task_id or task_id == _DROPPED:
                continue
            n_found += 1
            yield Found(split, task_id, path)
    if n_found == 0:
        raise DataNotFoundError(f"{root}: no <split>/<task>/<trial>/{GAME_FILE} in it")
