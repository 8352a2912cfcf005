from __future__ import annotations

from collections.abc import Callable

import pytest

from eto_envs.alfworld.data.pack import Pack
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.experts.priors import learn, load


def test_shares_are_counted(make_game: Callable[..., Game]) -> None:
    table = learn([make_game("look").problem, make_game("heat").problem])
    assert set(table) == {"apple", "desklamp", "egg"}
    # One of two countertops holds an apple; two empty ones are imagined.
    assert table["apple"]["countertop"] == 0.25
    assert table["egg"] == {"countertop": 0.25}
    assert "sinkbasin" not in table["apple"]


def test_the_table_that_is_shipped() -> None:
    assert len(load()) == 50
    assert all(0 < share < 1 for shares in load().values() for share in shares.values())


@pytest.mark.data
def test_the_table_is_learned_from_train_alone(official_pack: Pack) -> None:
    assert load() == learn(map(official_pack.problem, official_pack.splits["train"]))
