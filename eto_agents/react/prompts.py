"""Prompts: what a model reads before its task.

A prompt is an instruction and, unless it is left out, one worked example. Our own are package data
(``eto_agents/worlds/prompts``), written for this library; their examples are episodes of its
environments with thoughts written by hand. The brief ones (``brief.toml``) are one line a
world, for models too small to read more. The published ones of ETO are used from the data cache
(group ``eto-prompts``). As in ETO (`prompt_with_icl` with ``icl_format="conversation"``), a prompt
is a chat: the instruction, an acknowledgement, the example's turns; the task follows.
"""

from __future__ import annotations

import hashlib
import json
import sys
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
from eto_envs.shaping import Info

SOURCES: Final = ("own", "published", "brief")
"""Sources of prompts that have a name; any other is a file."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What comes before a task.

    Attributes:
        world: the world's name, which decides the format of actions and replies.
        instruction: the first message.
        acknowledgement: the model's answer to it.
        example: the worked example's messages, beginning with the user's.
        example_intro: a line before the example, in its first message.
        task_intro: a line before the task, in its message; only where an example is shown.
    """

    world: str
    instruction: str
    acknowledgement: str = "OK"
    example: tuple[Message, ...] = ()
    example_intro: str = ""
    task_intro: str = ""

    @property
    def format(self) -> Format:
        """How the world's harness reads and writes."""
        return find_world(self.world).format

    @property
    def sha256(self) -> str:
        """SHA-256 of all its texts."""
        parts = [self.world, *self.head(with_example=True), self.task_intro]
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def head(self, *, with_example: bool) -> list[Message]:
        """The messages before the task."""
        messages: list[Message] = [
            {"role": "user", "content": self.instruction},
            {"role": "assistant", "content": self.acknowledgement},
        ]
        if with_example and self.example:
            first, *rest = self.example
            messages.append(_user(self.example_intro, first["content"]))
            messages.extend(rest)
        return messages

    def task(self, observation: str, *, with_example: bool) -> Message:
        """The message that gives the task: the episode's first observation."""
        return _user(self.task_intro if with_example and self.example else "", observation)


def _user(intro: str, text: str) -> Message:
    return {"role": "user", "content": f"{intro}\n\n{text}" if intro else text}


def load_prompts(source: str | Path = "own") -> dict[str, Prompt]:
    """Prompts by world.

    Args:
        source: ``"own"``, ``"published"``, ``"brief"`` (one line a world, no example), or the path
            of a TOML file in the form of our own, which may be for a world of yours.

    Raises:
        DataNotFoundError: the published files are not in the data cache, or there is no such file.
        CorruptDataError: a file is not a prompt.
    """
    if source == "brief":
        file = resources.files("eto_agents.worlds") / "prompts" / "brief.toml"
        lines = read_toml(file.read_text(encoding="utf-8"))
        return {v: Prompt(v, lines[v]) for world in _papers() for v in world.variants}
    if source == "own":
        return {v: find_prompt({}, v) for world in _papers() for v in world.variants}
    if source == "published":
        named = [pair for world in _papers() for pair in world.published.items()]
        return {variant: _published(variant, name) for variant, name in named}
    path = Path(source)
    if not path.is_file():
        raise DataNotFoundError(
            f"no prompts at {str(path)!r}: give 'own', 'published', 'brief', or the path of a TOML "
            "file"
        )
    prompt = parse_prompt(path.read_text(encoding="utf-8"), str(path))
    return {prompt.world: prompt}


def _papers() -> list[World]:
    return [find_world(name) for name in WORLDS]


def find_prompt(prompts: Mapping[str, Prompt], variant: str) -> Prompt:
    """The prompt of a world, or of a variant of its games.

    Args:
        prompts: what `load_prompts` gave; a world that is none of the paper's brings its own.
        variant: as `prompt_key` gives it.

    Raises:
        UnknownNameError: there is none.
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
    """A prompt from TOML; `name` is for error messages.

    Raises:
        CorruptDataError: the text is not a prompt.
    """
    try:
        record = read_toml(text)
        return Prompt(
            world=str(record["world"]),
            instruction=str(record["instruction"]),
            acknowledgement=str(record.get("acknowledgement", "OK")),
            example=_example(record["world"], record.get("example")),
            example_intro=str(record.get("example_intro", "")),
            task_intro=str(record.get("task_intro", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"{name} is not a prompt ({error!r})") from error


def read_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _example(world: str, record: Mapping[str, Any] | None) -> tuple[Message, ...]:
    """The turns of an example; its last step has no observation."""
    if record is None:
        return ()
    prefix = find_world(world).format.prefix
    texts = [record["first"]]
    for step in record["steps"]:
        texts.append(f"Thought: {step['thought']}\nAction: {step['action']}")
        if "observation" in step:
            texts.append(prefix + step["observation"])
    if len(texts) != 2 * len(record["steps"]):
        raise ValueError("every step but the last has an observation")
    return _alternate(texts)


def _published(world: str, name: str) -> Prompt:
    """A prompt of ETO, from its two files."""
    instruction = data.path(f"eto-prompts/{name}_inst.txt").read_text(encoding="utf-8")
    path = data.path(f"eto-prompts/{name}_icl.json")
    try:
        # Their roles are of two kinds and partly wrong; their order is what ETO goes by, too.
        texts = [
            str(turn["content"] if "content" in turn else turn["value"])
            for turn in json.loads(path.read_text(encoding="utf-8"))[0]
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptDataError(f"{path} is not a worked example ({error!r})") from error
    return Prompt(world, instruction, example=_alternate(texts))


def _alternate(texts: list[str]) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(texts))


def prompt_key(info: Info) -> str:
    """The key of an episode's prompt: its world, in ALFWorld with the wording of its games."""
    return find_world(str(info["world"])).variant(info)


def prompt_key_of(trajectory: Trajectory) -> str:
    """The key of a recorded episode's prompt, as `prompt_key` gives it."""
    return find_world(trajectory.world).variant_of(trajectory)
