"""Checks keyword arguments that come from outside, such as ``--policy-args``, before their use.

Names are checked against the signature of what is called, and values against its annotations, so
that a misspelt name or a text in place of a number is reported before the first episode.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from eto_agents.settings import SettingsError
from eto_envs.errors import UnknownNameError

_SEVERAL: Final = (Sequence, Collection, Iterable, list, set, frozenset)
_DESCRIPTIONS: Final[Mapping[Any, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


class UnknownArgumentError(UnknownNameError, TypeError):
    """A function or class does not take an argument of this name."""

    def __init__(self, target: str, name: str, known: Iterable[str]) -> None:
        """Compose the message; `target` is what was called, `known` the names that it takes."""
        self.target, self.name, self.known = target, name, list(known)
        hint = f"{target[:1].upper()}{target[1:]} takes no such argument."
        super().__init__("argument", name, self.known, hint)


def checked_arguments(
    make: Callable[..., Any], arguments: Mapping[str, Any], target: str, *, n_given: int = 0
) -> dict[str, Any]:
    """Check names and types of keyword arguments.

    Args:
        make: the class or function that takes the arguments.
        arguments: the arguments.
        target: what is called, for error messages, such as ``"policy 'react'"``.
        n_given: number of positional arguments that the caller passes as well.

    Returns:
        The arguments; a single text in place of several has become a list of one.

    Raises:
        UnknownArgumentError: there is no argument of that name.
        SettingsError: a value does not have the type that the annotation requires. Values are
            checked where the annotation consists of built-in types.
    """
    try:
        parameters = list(inspect.signature(make).parameters.values())[n_given:]
    except (TypeError, ValueError):  # a class written in C may have no signature
        return dict(arguments)
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    hints = _hints(make)
    checked = dict(arguments)
    for name, value in arguments.items():
        hint = hints.get(name, Any)
        if name not in named:
            if not takes_any:
                raise UnknownArgumentError(target, name, named)
        elif isinstance(value, str) and _wants_texts(hint):
            checked[name] = [value]
        elif not _fits(value, hint):
            # An API key must not appear in a message.
            got = type(value).__name__ if "key" in name else repr(value)
            raise SettingsError(f"{target}: {name} must be {_describe(hint)}, got {got}")
    return checked


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    except (NameError, TypeError, AttributeError):  # imported for type checkers only
        return {}


def _parts(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _wants_texts(hint: Any) -> bool:
    """Whether an annotation means several texts, and not one."""
    parts = _parts(hint)
    texts = [p for p in parts if typing.get_origin(p) in _SEVERAL and typing.get_args(p)[0] is str]
    return bool(texts) and str not in parts


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, part) for part in _parts(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in inner
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, (str, Path))
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if origin in _SEVERAL:
        is_several = isinstance(value, (list, tuple, set, frozenset))
        return is_several and all(_fits(part, inner[0]) for part in value)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping)
    # Of other types only what JSON can express is refused: an object may do without the class.
    if value is None or isinstance(value, (bool, int, float, str)):
        return hint in (Any, object) or not inspect.isclass(hint)
    return True


def _describe(hint: Any) -> str:
    return " or ".join(_describe_one(part) for part in _parts(hint))


def _describe_one(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin in _SEVERAL:
        return 'a list, such as ["a", "b"]'
    if origin in (Mapping, dict):
        return 'an object, such as {"a": 1}'
    return _DESCRIPTIONS.get(hint, getattr(hint, "__name__", str(hint)))
