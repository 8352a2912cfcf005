"""Settings from TOML, with every mistake named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from eto_agents.settings import (
    SettingsError,
    overlay,
    read_json,
    read_settings,
    record_of,
    write_json,
)
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError


@dataclass(frozen=True)
class Told:
    out: Path
    rate: float = 0.1
    epochs: int = 3
    kind: Literal["a", "b"] = "a"
    seeds: tuple[int, ...] = (0,)
    score: float | None = None
    quiet: bool = False


def test_a_file_lies_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('out = "runs/x"\nrate = 1\nkind = "b"\nseeds = [1, 2]\nscore = 0.5\n')
    told = read_settings(path, Told(Path("y"), epochs=7))
    assert told == Told(Path("runs/x"), 1.0, 7, "b", (1, 2), 0.5)
    write_json(tmp_path / "config.json", record_of(told))
    assert (
        overlay(Told(Path()), {k: v for k, v in read_json(tmp_path / "config.json").items()})
        == told
    )


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"rats": 1}, UnknownNameError, "did you mean 'rate'"),
        ({"epochs": 1.5}, SettingsError, "epochs must be int"),
        ({"epochs": True}, SettingsError, "epochs must be int"),
        ({"kind": "c"}, SettingsError, "kind must be one of"),
        ({"seeds": 3}, SettingsError, "seeds must be a list"),
        ({"seeds": ["x"]}, SettingsError, "seeds must be int"),
        ({"score": "high"}, SettingsError, "score must be float"),
    ],
)
def test_mistakes_are_named(
    record: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        overlay(Told(Path()), record)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError):
        read_settings(tmp_path / "no.toml", Told(Path()))
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(CorruptDataError, match="not TOML"):
        read_settings(tmp_path / "bad.toml", Told(Path()))
    with pytest.raises(CorruptDataError, match="not JSON"):
        read_json(tmp_path / "bad.toml")
