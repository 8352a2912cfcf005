"""An imported file as a run's folder, which training, export and replay read like any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from eto_agents.formats.chats import Chat, trajectory_of
from eto_agents.formats.sft import N_ETO_PROMPT, world_of_chat
from eto_agents.plain_text import without_surrogates
from eto_agents.runs import episodes_folder
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Message, Trajectory
from eto_agents.worlds.base import find_world, known_world
from eto_envs.errors import CorruptDataError, DataError
from eto_envs.files import sha256_of, write_whole


def write_folder(
    folder: Path,
    source: Path,
    chats: Sequence[Chat],
    *,
    world: str | None = None,
    score_if_unknown: float = 1.0,
) -> list[Trajectory]:
    """Write chats as ``episodes.jsonl``, with ``run.json`` saying where they come from.

    If all have the same two messages before the task (instruction and acknowledgement), these are
    written as ``prompt.toml``, a file for ``--prompts``.

    Args:
        folder: a new folder.
        source: the file they were read from.
        chats: what was read.
        world: whose format the texts have; by default what each chat says it comes from.
        score_if_unknown: what an episode without a score counts as; ``run.json`` says for how many.

    Returns:
        The episodes.

    Raises:
        DataError: `folder` has episodes already.
        CorruptDataError: a chat is no episode; names its entry.
    """
    if (folder / "episodes.jsonl").exists() or (folder / "run.json").exists():
        raise DataError(f"{folder} has episodes already; choose another folder")
    if world is not None:
        known_world(world)
    worlds = [world or world_of_chat(chat) for chat in chats]
    trajectories = []
    for number, (chat, theirs) in enumerate(zip(chats, worlds, strict=True), start=1):
        stated = chat.facts.get("world", find_world(theirs).name)
        if find_world(stated).name != find_world(theirs).name:
            raise CorruptDataError(
                f"{source}, entry {number}: its world is {stated!r}, but world={world!r} was "
                "requested"
            )
        try:
            trajectories.append(trajectory_of(chat, theirs, score_if_unknown=score_if_unknown))
        except (ValueError, TypeError) as error:
            raise CorruptDataError(f"{source}, entry {number}: {error}") from error
    with TrajectoryStore(folder / "episodes.jsonl") as store:
        for trajectory in trajectories:
            store.append(trajectory)
    prompts = {json.dumps(chat.messages[: chat.n_prompt]) for chat in chats}
    roles = [message["role"] for message in chats[0].messages[: chats[0].n_prompt]]
    if len(prompts) == 1 and len(set(worlds)) == 1 and roles == ["user", "assistant"]:
        text = prompt_toml(worlds[0], chats[0].messages)
        write_whole(folder / "prompt.toml", text.encode())
    n_unknown = sum(chat.score is None for chat in chats)
    run = episodes_folder(
        folder,
        env_id=", ".join(dict.fromkeys(t.env_id for t in trajectories)),
        env_args={},
        policy=", ".join(dict.fromkeys(t.policy for t in trajectories)),
        policy_provenance={},
        task_sets={t.split: t.tasks_sha256 for t in trajectories},
    )
    imported = {"file": source.name, "sha256": sha256_of(source), "n_episodes": len(trajectories)}
    if n_unknown:
        imported |= {"n_without_score": n_unknown, "score_if_unknown": score_if_unknown}
    with run:
        run.state(imported=imported)
    return trajectories


def prompt_toml(world: str, head: Sequence[Message]) -> str:
    """The text of a prompt file from instruction and acknowledgement."""
    texts = [without_surrogates(message["content"]) for message in head[:N_ETO_PROMPT]]
    instruction, acknowledgement = (
        json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") for text in texts
    )
    return (
        f"world = {json.dumps(world)}\ninstruction = {instruction}\n"
        f"acknowledgement = {acknowledgement}\n"
    )
