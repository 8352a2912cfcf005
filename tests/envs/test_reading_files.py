"""Reading text, JSON and TOML: every fault is an error that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError
from eto_envs.files import (
    MAX_DEPTH,
    check_depth,
    parse_json,
    read_json,
    read_json_object,
    read_text,
    read_toml,
)

READERS: list[Callable[..., Any]] = [read_text, read_json, read_json_object, read_toml]


@pytest.mark.parametrize("read", READERS)
def test_what_cannot_be_read_is_named_with_what_to_do(
    read: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(DataNotFoundError, match=r"there is no file .*x\.json\. Do this\."):
        read(tmp_path / "x.json", "Do this.")
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory\. Do this\."):
        read(tmp_path, "Do this.")
    with pytest.raises(DataError, match="cannot read"):
        read(tmp_path / "a\0b")
    path = tmp_path / "x.json"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CorruptDataError, match=r"x\.json is a Git LFS pointer"):
        read(path)


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_text(path) == "a = 1"
    assert read_toml(path) == {"a": 1}
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_bytes(b"\xff\xfe")
    for read in (read_text, read_toml):
        with pytest.raises(CorruptDataError, match="x is not UTF-8 text"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1,\n2,\n,]\n", ", line 3: not JSON"),
        ("[" * 100_000, "nested more than 100 levels deep"),
        ("[" * 101 + "]" * 101, "nested more than 100 levels deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested more than 100 levels deep"),
        ("1" * 5_000, "not JSON"),
        ("\udc80".encode("utf-8", "surrogatepass")[:2] + b"x", "not UTF-8 text"),
    ],
)
def test_what_is_no_json(text: str | bytes, message: str) -> None:
    with pytest.raises(CorruptDataError, match=f"^x.*{message}"):
        parse_json(text, "x")


@pytest.mark.parametrize("text", ["= 1", "a = " + "[" * 50_000, "a = " + "[" * 200 + "]" * 200])
def test_what_is_no_toml(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(CorruptDataError, match=r"x\.toml.*(not valid TOML|nested more than)"):
        read_toml(tmp_path / "x.toml")


def test_depth_is_counted_in_levels() -> None:
    value: Any = 1
    for n in range(MAX_DEPTH):
        check_depth(value, "x")
        value = [value, "y"] if n % 2 else {"a": 0, "b": value}
    check_depth(value, "x")
    with pytest.raises(CorruptDataError, match="x: nested more than"):
        check_depth([value], "x")


def test_an_object_is_expected(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("[1]")
    with pytest.raises(CorruptDataError, match="x is not a JSON object"):
        read_json_object(tmp_path / "x")
