"""JSON that every program can read: no NaN, no infinities, always UTF-8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eto_agents.strict_json import json_text, write_json


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("indent", [None, 2])
def test_what_json_cannot_write_is_null(indent: int | None) -> None:
    value = {"a": float("nan"), "b": [float("-inf"), {"c": (1.5, float("inf"))}], "d": "NaN"}
    expected = {"a": None, "b": [None, {"c": [1.5, None]}], "d": "NaN"}
    assert strict(json_text(value, indent)) == expected
    assert json_text({"é": 1}, indent) == json.dumps({"é": 1}, indent=indent, ensure_ascii=False)


def test_half_a_surrogate_pair_is_escaped() -> None:
    value = {"name": "a\ud800b", "é": float("nan")}
    assert strict(json_text(value).encode().decode()) == {"name": "a\ud800b", "é": None}


def test_other_types_need_a_converter(tmp_path: Path) -> None:
    assert json_text({"path": Path("a"), "n": float("nan")}, default=str) == (
        '{"path": "a", "n": null}'
    )
    with pytest.raises(TypeError):
        json_text({"path": Path("a")})
    write_json(tmp_path / "x" / "a.json", {"n": float("inf"), "name": "\ud800"})
    assert strict((tmp_path / "x" / "a.json").read_text()) == {"n": None, "name": "\ud800"}
