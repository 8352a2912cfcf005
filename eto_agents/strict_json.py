"""The one way to write JSON: strict, and always encodable as UTF-8.

Python would write NaN and the infinities as words that the standard does not know and that most
other programs refuse; they become null here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eto_envs.files import write_whole


def json_text(
    value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None
) -> str:
    """Serialise a value as JSON.

    Args:
        value: the value; its NaNs and infinities are written as null.
        indent: spaces of each level; None writes one line.
        default: converts a value of another type, as for `json.dumps`.
    """
    try:
        text = json.dumps(
            value, ensure_ascii=False, allow_nan=False, indent=indent, default=default
        )
    except ValueError:
        plain = _without_nan(json.loads(json.dumps(value, default=default)))
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:  # an agent wrote half a surrogate pair: escaping preserves it
        text = json.dumps(json.loads(text), indent=indent)
    return text


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as indented JSON, atomically."""
    write_whole(path, (json_text(record, indent=2) + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
