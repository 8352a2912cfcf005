from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.webshop.data import jsonfiles
from eto_envs.webshop.data.jsonfiles import JsonLines, stream_list, stream_object, write_json_lines

VALUES: list[Any] = [{"a": [1, 2.5, None]}, "text, [with] {brackets}", 12345, -1e-9, [], "é\ud83d"]


@pytest.fixture(params=[1, 2, 7, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(jsonfiles, "_CHUNK_CHARS", request.param)
    return int(request.param)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_streams_equal_json_whatever_the_chunk(
    tmp_path: Path, chunk: int, indent: int | None, ascii_only: bool
) -> None:
    values = VALUES if ascii_only else [*VALUES[:-1], "é"]  # a lone surrogate must be escaped
    path = tmp_path / "x.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert list(stream_list(path)) == values
    table = {f"key {i}": value for i, value in enumerate(values)}
    path.write_text(json.dumps(table, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert list(stream_object(path)) == list(table.items())


def test_what_python_wrote_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(" [ NaN , 1 ] \n")
    first, second = stream_list(path)
    assert math.isnan(first)
    assert second == 1


@pytest.mark.parametrize("text", ["[]", " [\n] "])
def test_empty_list(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert list(stream_list(tmp_path / "x.json")) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"a": 1}, {"a": ', "after entry 1"),
        (b'[{"a": 1}', "after entry 1"),
        (b'[{"a": 1},', "after entry 1"),
        (b'[{"a": 1} {"a": 2}]', "after entry 1"),
        (b"[1, 2] 3", "text after the end"),
        (b'["\xff"]', "after entry 0"),
        (b"", "does not contain a JSON list"),
        (b'{"a": 1}', "does not contain a JSON list"),
        (b"<html>Quota exceeded</html>", "does not contain a JSON list"),
    ],
)
def test_damage_is_named_with_its_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "items.json"
    path.write_bytes(content)
    with pytest.raises(CorruptDataError, match=said) as caught:
        list(stream_list(path))
    assert str(path) in str(caught.value)
    assert "again" in str(caught.value)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"nothing\.json"):
        list(stream_object(tmp_path / "nothing.json"))


def test_json_lines_give_back_what_was_written(tmp_path: Path) -> None:
    assert write_json_lines(tmp_path, "x", VALUES) == len(VALUES)
    lines = JsonLines(tmp_path, "x")
    assert list(lines) == VALUES
    for index in (-1, len(VALUES)):
        with pytest.raises(IndexError):
            lines[index]


def test_no_json_lines(tmp_path: Path) -> None:
    write_json_lines(tmp_path, "x", [])
    assert list(JsonLines(tmp_path, "x")) == []


def test_arrays_cannot_be_changed(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    array = jsonfiles.load_array(tmp_path / "x.npy", "<i8", hint="")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5
