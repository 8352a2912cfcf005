"""Damages files: their bytes, the values of JSON and TOML, the headers and values of arrays.

Everything is drawn from a `random.Random`, so that a seed repeats the damage.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
from typing import Any

import numpy as np

TOKENS = (
    *(b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"\n\n", b"{", b"}", b"[", b"]", b'"', b"\\"),
    *(b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 5_000, b"\\ud800", b"\xed\xa0\x80"),
    *(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"PK\x03\x04", b"\x1f\x8b"),
    *(b"[" * 100_000, b'{"a":' * 3_000, b"\x80\x04K\x01.", b"\x93NUMPY", b"..", b"/", b"%s"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, -0.5, 1e308, float("nan")),
    *(float("inf"), "", "x", "0", "\ud800", "\x00", "../../x", "/x", "a" * 10_000, [], [[]], {}),
    *([None], [1, "x"], {"": None}, {"a": {"b": []}}, ["x"] * 300, "2.1.1", "inf", "nan"),
)
TOML_VALUES = (
    *("inf", "-inf", "nan", "0", "-1", "1.5", '""', '"x"', "[]", "{}", "true", "1979-05-27", "'''"),
    *(
        "9" * 400,
        "9" * 6_000,
        "[" * 50_000,
        "[" * 300 + "]" * 300,
        '["x"]',
        "[1]",
        "{a = 1}",
        "1e9",
    ),
)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


class Damage:
    """Damaged copies of contents of files."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def of(self, name: str, content: bytes) -> bytes:
        """A damaged copy of a file; its name tells which structure it has."""
        kind = "." + name.rpartition(".")[2]
        by_structure = {
            ".json": self.json,
            ".tw-pddl": self.json,
            ".jsonl": self.lines,
            ".toml": self.toml,
            ".npy": self.array,
            ".safetensors": self.safetensors,
            ".gz": self.gzipped,
        }.get(kind, self.bytes)
        return (self.bytes if self.draw.random() < 0.4 else by_structure)(content)

    def bytes(self, content: bytes) -> bytes:
        draw = self.draw
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            # Beginnings hold headers: damage them as often as all the rest.
            size = len(content) if draw.random() < 0.5 else min(len(content), 100)
            at, end = sorted(draw.randrange(size + 1) for _ in range(2))
            content = draw.choice(
                (
                    content[:at],
                    content[:at] + content[end:],
                    content[:at] + draw.choice(TOKENS) + content[at:],
                    content[:at] + draw.choice(TOKENS) + content[end:],
                    content[:at] + draw.randbytes(end - at) + content[end:],
                    content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :],
                    content[:end] + content[at:],
                    content + content,
                    draw.choice(TOKENS) + content,
                    draw.choice(TOKENS),
                )
            )
        return content

    def json(self, content: bytes) -> bytes:
        value = self.value(json.loads(content))
        return json.dumps(value, indent=self.draw.choice((None, 1))).encode()

    def lines(self, content: bytes) -> bytes:
        lines = content.splitlines()
        number = self.draw.randrange(len(lines))
        change = self.draw.random()
        if change < 0.1:
            lines = lines[:number] + lines[number + 1 :]
        elif change < 0.2:
            lines.insert(number, lines[number])
        else:
            lines[number] = json.dumps(self.value(json.loads(lines[number]))).encode()
        return b"".join(line + b"\n" for line in lines)

    def value(self, value: Any) -> Any:
        """A JSON value in which one part, chosen by walking down, is another."""
        draw = self.draw
        if isinstance(value, (dict, list)) and value and draw.random() < 0.85:
            keys = list(value) if isinstance(value, dict) else range(len(value))
            key = draw.choice(keys)
            copied: Any = dict(value) if isinstance(value, dict) else list(value)
            change = draw.random()
            if change < 0.12:
                del copied[key]
            elif change < 0.2 and isinstance(copied, dict):
                copied[draw.choice(("", "x", *keys))] = copied.pop(key)
            elif change < 0.2:
                copied.append(copied[key])
            else:
                copied[key] = self.value(value[key])
            return copied
        if type(value) in (int, float) and draw.random() < 0.5:
            return value + draw.choice((-1, 1, 1000, 0.5))
        if draw.random() < 0.1:
            return nested(draw.choice((60, 61, 99, 150, 151)))
        return draw.choice(VALUES)

    def toml(self, content: bytes) -> bytes:
        lines = content.decode().splitlines()
        rows = [i for i, line in enumerate(lines) if re.match(r"[\w.-]+ *=|\[", line)]
        row = self.draw.choice(rows)
        key, equals, _ = lines[row].partition("=")
        change = self.draw.random()
        if change < 0.1:
            del lines[row]
        elif change < 0.2:
            lines.insert(row, lines[row])
        elif change < 0.3:
            lines[row] = f"unknown-{lines[row]}"
        else:
            lines[row] = f"{key if equals else 'x '}= {self.draw.choice(TOML_VALUES)}"
        return "\n".join(lines).encode()

    def array(self, content: bytes) -> bytes:
        draw = self.draw
        array = np.load(io.BytesIO(content))
        at = draw.randrange(len(array)) if len(array) else 0
        change = draw.randrange(8)
        if change < 4 and len(array) and array.dtype.kind != "S":
            values = (-1, 0, 2**31 - 1, -(2**31), len(array)) + (
                (float("nan"), float("inf"), -0.0) if array.dtype.kind == "f" else ()
            )
            array[at] = np.array(draw.choice(values)).astype(array.dtype)
        elif change == 4 and array.dtype.kind != "S":
            array = array.astype(draw.choice(("<f8", "<i8", ">i4", "|u1", "<U5", "|S3", "<c16")))
        elif change == 5:
            array = draw.choice((array[:at], array[::-1], np.repeat(array, 2), array[:0]))
        elif change == 6:
            array = draw.choice((array[None], array[:, None], np.array(3), np.array([])))
        else:
            header = content[: content.index(b"\n") + 1]
            return self.bytes(header) + content[len(header) :]
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    def safetensors(self, content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        header = json.dumps(self.value(json.loads(content[8 : 8 + size]))).encode()
        length = len(header) if self.draw.random() < 0.9 else self.draw.choice((0, 2**63, size))
        return struct.pack("<Q", length) + header + content[8 + size :]

    def gzipped(self, content: bytes) -> bytes:
        return gzip.compress(self.bytes(gzip.decompress(content)), mtime=0)
