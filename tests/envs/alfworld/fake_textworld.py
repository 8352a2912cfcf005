"""As much of TextWorld as the adapter uses, on the native engine: for tests without TextWorld."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eto_envs.alfworld import stock
from eto_envs.alfworld.data.reading import read_game
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.engine.wording import introduction


class PddlEnv:
    """Loads game files and plays them; counts what it is asked for."""

    made: list[PddlEnv]

    def __init__(self, infos: Any) -> None:
        self.n_loads = self.n_resets = self.n_steps = 0
        self.made.append(self)

    def load(self, content: Any) -> None:
        self.n_loads += 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "game.tw-pddl"
            path.write_text(json.dumps(content), encoding="utf-8")
            self.game = Game(*read_game(path))
        ids = ("drawer_bar_01", "drawer_bar_02", "agent1")
        self._entity_infos = {i: SimpleNamespace(name=i) for i in ids}

    def reset(self) -> dict[str, Any]:
        self.n_resets += 1
        self.state = self.game.start
        return self._shown(introduction(self.game))

    def step(self, command: str) -> tuple[dict[str, Any], int, bool]:
        self.n_steps += 1
        self.state, answer, won = step(self.game, self.state, command)
        return self._shown(answer), int(won), won

    def _shown(self, feedback: str) -> dict[str, Any]:
        return {
            "feedback": feedback,
            "admissible_commands": admissible_commands(self.game, self.state),
            "won": self.game.is_won(self.state),
        }


def install(monkeypatch: pytest.MonkeyPatch) -> type[PddlEnv]:
    """Let the adapter find this instead of TextWorld."""
    monkeypatch.setattr(PddlEnv, "made", [], raising=False)
    parts: dict[str, dict[str, Any]] = {
        "textworld": {},
        "textworld.core": {"EnvInfos": SimpleNamespace},
        "textworld.envs": {},
        "textworld.envs.pddl": {"PddlEnv": PddlEnv},
        "fast_downward": {},
        "mementos": {},
        "mementos.core": {"_memento_cache": {"a proposition": "of another game"}},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(stock, "_PYTHON", (3, 12))
    return PddlEnv
