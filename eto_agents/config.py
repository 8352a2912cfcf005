"""Settings: frozen dataclasses, read from TOML files and written as JSON beside each run.

The command line makes flags of a dataclass by itself (tyro); here is what lies under it: the
overlay of a TOML file on the defaults, with every mistake named, and the JSON record by which a
run knows again what it was told.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from eto_envs.errors import CorruptDataError, DataNotFoundError, EtoError, UnknownNameError
from eto_envs.files import write_whole

Settings = TypeVar("Settings")


class SettingsError(EtoError, ValueError):
    """A setting of the wrong type or out of range."""


def read_settings(path: Path, default: Settings) -> Settings:
    """A TOML file's values over those of `default`.

    Args:
        path: the file; its keys are names of fields, with ``-`` or ``_``.
        default: what holds where the file is silent.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not TOML.
        UnknownNameError: a key is no field.
        SettingsError: a value is not of its field's type.
    """
    return overlay(default, read_toml_file(path), str(path))


def read_toml_file(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if not path.is_file():
        raise DataNotFoundError(f"no settings file at {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptDataError(f"{path} is not TOML ({error})") from error


def overlay(default: Settings, record: Mapping[str, Any], source: str = "settings") -> Settings:
    """Values by name over those of `default`; `source` is for error messages.

    Raises:
        UnknownNameError: a name is no field.
        SettingsError: a value is not of its field's type.
    """
    types_by_name = typing.get_type_hints(type(default))
    values = {}
    for key, value in record.items():
        name = key.replace("-", "_")
        if name not in types_by_name:
            raise UnknownNameError(f"setting in {source}:", key, types_by_name)
        values[name] = _fit(value, types_by_name[name], f"{source}: {key}")
    return dataclasses.replace(default, **values)  # type: ignore[type-var]


def record_of(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON-able values."""
    record: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return record


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole, indented."""
    write_whole(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        CorruptDataError: it is not a JSON object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptDataError(f"{path} is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise CorruptDataError(f"{path} is not a JSON object")
    return record


def _fit(value: Any, wanted: Any, where: str) -> Any:
    """A TOML value as a field's type: number, text, path, choice, list or table."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _fit(value, next(part for part in inner if part is not type(None)), where)
    if origin is typing.Literal:
        if value not in inner:
            raise SettingsError(f"{where} must be one of {list(inner)}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{where} must be a list, got {value!r}")
        return tuple(_fit(part, inner[0], where) for part in value)
    if origin is Mapping:
        wanted = dict
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise SettingsError(f"{where} must be {wanted.__name__}, got {value!r}")
    return value
