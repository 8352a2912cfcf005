"""Prompts: what a model reads before its task.

A prompt is an instruction and, optionally, one worked example. The library's own prompts
(``eto_agents/worlds/prompts``) have episodes of its environments with hand-written thoughts as
examples. The brief ones (``brief.toml``) are one line per world, for models too small to read more.
ETO's published prompts are read from the data cache (group ``eto-prompts``). As in ETO
(`prompt_with_icl` with ``icl_format="conversation"``), a prompt is a chat: the instruction, an
acknowledgement, and the turns of the example; the task follows. How the same prompt looks to an
agent that calls a tool is in `eto_agents.react.protocols`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from eto_agents.react.parse import Format
from eto_agents.trajectory import Message, Trajectory
from eto_agents.worlds.base import WORLDS, World, find_world
from eto_envs import data
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.files import parse_toml, read_json, read_text
from eto_envs.shaping import Info

SOURCES: Final = ("own", "published", "brief")
"""The names of sources of prompts; any other source is a file."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages before a task.

    Attributes:
        world: the world's name, which determines the format of replies and observations.
        instruction: the first message: the world, its commands, and what counts.
        reply_format: the end of the first message: how to write a thought and an action as text.
        acknowledgement: the model's answer to the instruction.
        example: the messages of the worked example; the first one is the user's.
        example_intro: a line before the example, in its first message.
        task_intro: a line before the task, in its message; only used with an example.
    """

    world: str
    instruction: str
    reply_format: str = ""
    acknowledgement: str = "OK"
    example: tuple[Message, ...] = ()
    example_intro: str = ""
    task_intro: str = ""

    @property
    def format(self) -> Format:
        """The format of the world's replies and observations."""
        return find_world(self.world).format

    @property
    def sha256(self) -> str:
        """SHA-256 of all texts of the prompt."""
        parts = [self.world, *self.head(with_example=True), self.task_intro]
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def head(self, *, with_example: bool) -> list[Message]:
        """The messages before the task."""
        request = "\n\n".join(filter(None, (self.instruction, self.reply_format)))
        messages: list[Message] = [
            {"role": "user", "content": request},
            {"role": "assistant", "content": self.acknowledgement},
        ]
        if with_example and self.example:
            first, *rest = self.example
            messages.append(_user(self.example_intro, first["content"]))
            messages.extend(rest)
        return messages

    def task(self, observation: str, *, with_example: bool) -> Message:
        """The message with the task: the initial observation."""
        return _user(self.task_intro if with_example and self.example else "", observation)


def _user(intro: str, text: str) -> Message:
    return {"role": "user", "content": f"{intro}\n\n{text}" if intro else text}


def load_prompts(source: str | Path = "own") -> dict[str, Prompt]:
    """Load prompts by world.

    Args:
        source: ``"own"``, ``"published"``, ``"brief"`` (one line per world, no example), or the
            path of a TOML file in the format of the library's own prompts, which may be for
            another world.

    Raises:
        DataNotFoundError: the published files are not in the data cache, or there is no such file.
        CorruptDataError: a file is not a prompt.
    """
    if source == "brief":
        file = resources.files("eto_agents.worlds") / "prompts" / "brief.toml"
        lines = parse_toml(file.read_text(encoding="utf-8"), file)
        return {v: Prompt(v, lines[v]) for world in _papers() for v in world.variants}
    if source == "own":
        return {v: find_prompt({}, v) for world in _papers() for v in world.variants}
    if source == "published":
        named = [pair for world in _papers() for pair in world.published.items()]
        return {variant: _published(variant, name) for variant, name in named}
    path = Path(source)
    if not path.is_file():
        raise DataNotFoundError(
            f"there are no prompts at {str(path)!r}: give 'own', 'published', 'brief', or the path "
            "of a TOML file"
        )
    prompt = parse_prompt(read_text(path), str(path))
    return {prompt.world: prompt}


def _papers() -> list[World]:
    """The paper's worlds."""
    return [find_world(name) for name in WORLDS]


def find_prompt(prompts: Mapping[str, Prompt], variant: str) -> Prompt:
    """The prompt of a world, or of a variant of it.

    Args:
        prompts: the result of `load_prompts`; worlds other than the paper's provide their own.
        variant: the variant, as `prompt_key` returns it.

    Raises:
        UnknownNameError: there is no such prompt.
    """
    if variant in prompts:
        return prompts[variant]
    world = find_world(variant)
    text = None if prompts and world.name in WORLDS else world.prompt(variant)
    if text is None:
        hint = "Give world=, or prompts=FILE for a world of your own."
        raise UnknownNameError("prompt for world", variant, prompts, hint)
    return parse_prompt(text, f"{variant}.toml")


def parse_prompt(text: str, name: str) -> Prompt:
    """Parse a prompt in TOML.

    Args:
        text: the TOML text.
        name: the file's name, for error messages.

    Raises:
        CorruptDataError: the text is not a prompt.
    """
    record = parse_toml(text, name)
    try:
        return Prompt(
            world=_text(record["world"]),
            instruction=_text(record["instruction"]),
            reply_format=_text(record.get("reply_format", "")),
            acknowledgement=_text(record.get("acknowledgement", "OK")),
            example=_example(record["world"], record.get("example")),
            example_intro=_text(record.get("example_intro", "")),
            task_intro=_text(record.get("task_intro", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"{name} is not a prompt ({error!r})") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is not a text")
    return value


def _example(world: str, record: Mapping[str, Any] | None) -> tuple[Message, ...]:
    """The messages of an example, whose last step has no observation."""
    if record is None:
        return ()
    prefix = find_world(world).format.prefix
    texts = [_text(record["first"])]
    for step in record["steps"]:
        texts.append(f"Thought: {_text(step['thought'])}\nAction: {_text(step['action'])}")
        if "observation" in step:
            texts.append(prefix + _text(step["observation"]))
    if len(texts) != 2 * len(record["steps"]):
        raise ValueError("every step except the last must have an observation")
    return _alternate(texts)


def _published(world: str, name: str) -> Prompt:
    """Read one of ETO's prompts from its two files."""
    instruction = read_text(data.path(f"eto-prompts/{name}_inst.txt"))
    path = data.path(f"eto-prompts/{name}_icl.json")
    examples = read_json(path)
    try:
        # The files name roles in two ways, partly wrongly; like ETO, rely on the order of turns.
        texts = [
            str(turn["content"] if "content" in turn else turn["value"]) for turn in examples[0]
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptDataError(f"{path} is not a worked example ({error!r})") from error
    return Prompt(world, instruction, example=_alternate(texts))


def _alternate(texts: list[str]) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))


def prompt_key(info: Info) -> str:
    """The key of an episode's prompt: its world, for ALFWorld with the version of its wording."""
    return find_world(str(info["world"])).variant(info)


def prompt_key_of(trajectory: Trajectory) -> str:
    """The key of a recorded episode's prompt, as `prompt_key` returns it."""
    return find_world(trajectory.world).variant_of(trajectory)
