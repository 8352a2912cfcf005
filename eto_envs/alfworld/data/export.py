"""Writes games as the original's files, so that the stock TextWorld engine can load and play them.

The problem's text is our own, made by `writing`; `reading` reads it back as the same problem. The
texts of domain and grammar are third-party work that is not part of this package: they are taken
from the installed `alfworld` package (its `data/alfred.pddl` and `data/alfred.twl2`, as of version
0.4.2) or from an official game file.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from eto_envs.alfworld.data.datasets import open_dataset
from eto_envs.alfworld.data.games import FOLDERS, GAME_FILE
from eto_envs.alfworld.data.writing import problem_text
from eto_envs.alfworld.engine.game import GRAMMARS
from eto_envs.alfworld.engine.problem import Problem
from eto_envs.errors import CorruptDataError, DataNotFoundError, MissingExtraError, UnknownNameError
from eto_envs.files import write_whole
from eto_envs.tasks import Task

TRAJECTORY_FILE: Final = "traj_data.json"
"""What the `alfworld` package looks for beside a game file."""

_WORDINGS = {
    "2.1.1": {
        "go": "You arrive at {lend.name}. #examineReceptacle.feedback#",
        "put": "put {o} in/on {r}",
        "done": "You put the {o.name} in/on the {r.name}.",
    },
    "2.1.2": {
        "go": "You arrive at {r.name}. #examineReceptacle.feedback#",
        "put": "move {o} to {r}",
        "done": "You move the {o.name} to the {r.name}.",
    },
}
_TASK = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)"(?:[^"\\]|\\.)*"')
_HELP = re.compile(r"^action help \{.*?^\}\n?", re.DOTALL | re.MULTILINE)
_NO_TEXTS = (
    "the texts of domain and grammar are not part of this package: "
    "pip install alfworld, or name an official game file as `template`"
)


class Texts(NamedTuple):
    """What is the same in every game of a release.

    Attributes:
        domain: the PDDL domain.
        grammar: the grammar, with some task in it.
    """

    domain: str
    grammar: str


def export_games(
    tasks: Iterable[Task],
    target: Path,
    grammar: str = GRAMMARS[0],
    *,
    dataset: str = "mini",
    template: Path | None = None,
) -> list[Path]:
    """Write games as ``<target>/<split's folder>/<task>/<trial>/game.tw-pddl``.

    Beside each lies a minimal ``traj_data.json``; what is there already is replaced.

    Args:
        tasks: the games.
        target: the folder to write to.
        grammar: the release whose wording the games are to have, ``"2.1.1"`` or ``"2.1.2"``.
        dataset: what the tasks are of, as `open_dataset` takes it.
        template: an official game file whose domain and grammar are used; by default those of the
            installed `alfworld` package.

    Returns:
        The game files.

    Raises:
        UnknownNameError: no such grammar or dataset, or a task of another dataset.
        MissingExtraError: no template is given and `alfworld` is not installed.
        DataNotFoundError: the template or dataset is not there.
        CorruptDataError: the texts found are not what is known of the release.
    """
    if grammar not in GRAMMARS:
        raise UnknownNameError("grammar", grammar, GRAMMARS)
    pack = open_dataset(dataset).pack
    split_of = {task_id: split for split, ids in pack.splits.items() for task_id in ids}
    texts = in_wording(find_texts(template), grammar)
    paths = []
    for task in tasks:
        problem = pack.problem(task.id)
        folder = target / FOLDERS[split_of[task.id]] / task.id
        write_whole(folder / TRAJECTORY_FILE, json.dumps(trajectory_data(task.id)).encode())
        paths.append(folder / GAME_FILE)
        write_whole(paths[-1], json.dumps(game_file(problem, texts)).encode())
    return paths


def find_texts(template: Path | None = None) -> Texts:
    """The texts of an official game file, or of the installed `alfworld` package.

    Raises:
        MissingExtraError: no template is given and `alfworld` is not installed.
        DataNotFoundError: there is no such template.
        CorruptDataError: it is no game file.
    """
    if template is None:
        folder = _package_folder() / "data"
        names = ("alfred.pddl", "alfred.twl2")
        if not all((folder / name).is_file() for name in names):
            raise MissingExtraError(f"{folder} lacks {' or '.join(names)}; {_NO_TEXTS}")
        return Texts(*((folder / name).read_text(encoding="utf-8") for name in names))
    try:
        content = json.loads(template.read_text(encoding="utf-8"))
        return Texts(content["pddl_domain"], content["grammar"])
    except FileNotFoundError:
        raise DataNotFoundError(f"{template}: there is no such game file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{template}: not a game file ({error})") from None


def _package_folder() -> Path:
    """Where `alfworld` is installed; it is not imported, since that would make folders."""
    found = importlib.util.find_spec("alfworld")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(_NO_TEXTS)
    return Path(next(iter(found.submodule_search_locations)))


def in_wording(texts: Texts, grammar: str) -> Texts:
    """The texts as a release has them; the releases differ in three phrases and in `help`.

    Raises:
        CorruptDataError: the texts are of neither release, or lack the `help` they should have.
    """
    release = _release_of(texts.grammar)
    if release == grammar:
        return texts
    if grammar != "2.1.1":
        raise CorruptDataError(
            f"a grammar of release {release} lacks the help of {grammar}; take the texts from a "
            "game file of that release or from alfworld 0.4"
        )
    wording, n_found = _HELP.subn("", texts.grammar)
    start = texts.domain.find("(:action help")
    if start < 0 or n_found != 1:
        raise CorruptDataError(f"texts of release {release} whose help was not found")
    for name, phrase in _WORDINGS[release].items():
        wording = wording.replace(f'"{phrase}"', f'"{_WORDINGS[grammar][name]}"')
    return Texts(texts.domain[:start] + _after_form(texts.domain[start:]), wording)


def _release_of(text: str) -> str:
    for release, phrases in _WORDINGS.items():
        if all(f'"{phrase}"' in text for phrase in phrases.values()):
            return release
    raise CorruptDataError(f"a grammar of none of the releases {', '.join(GRAMMARS)}")


def _after_form(text: str) -> str:
    """What follows the parenthesis that closes the first one."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return text[position + 1 :]
    raise CorruptDataError("a domain with a parenthesis that is never closed")


def game_file(problem: Problem, texts: Texts) -> dict[str, object]:
    """The content of a game file."""
    task = json.dumps(problem.task)
    return {
        "pddl_domain": texts.domain,
        "grammar": _TASK.sub(lambda match: match.group(1) + task, texts.grammar, count=1),
        "pddl_problem": problem_text(problem),
        "solvable": True,
    }


def trajectory_data(task_id: str) -> dict[str, object]:
    """What the `alfworld` package wants to know of a game, from its id.

    Raises:
        UnknownNameError: the id is not ``<type>-<object>-<…>-<receptacle>-<scene>/<trial>``.
    """
    task, _, trial = task_id.partition("/")
    try:
        kind, thing, holder, target, _scene = task.split("-")
    except ValueError:
        raise UnknownNameError("game", task_id, (), "The id has another form.") from None
    is_look = kind.startswith("look")
    return {
        "task_type": kind,
        "task_id": trial,
        "pddl_params": {
            "object_target": thing,
            "object_sliced": False,
            "mrecep_target": "" if holder == "None" else holder,
            "parent_target": "" if is_look else target,
            "toggle_target": target if is_look else "",
        },
    }
