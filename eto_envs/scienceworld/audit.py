"""Compares ScienceWorld with recorded episodes of the original package.

The original 1.2.3 iterates over sets of objects in an order that differs between processes. A
recording has one of the two orders that can be reproduced: the order of object ids, which this
library uses, or that of the JVM's ``-XX:hashCode=2``. An episode that differs in the first order is
replayed in the second, and the report says how many episodes that concerns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eto_envs.comparison import Comparison, Difference, not_a_recording, read_recordings
from eto_envs.scienceworld.installed import find_java
from eto_envs.scienceworld.world import Outcome, Setup, World

_FIELDS = {"observation": "observation", "score": "raw_score", "completed": "completed"}
_FIELDS["ticks"] = "moves"


def compare(
    transcripts: Path,
    *,
    java: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Replay recorded episodes.

    Args:
        transcripts: a JSON-lines file, optionally gzipped: ``{"task", "variation",
            "simplification", "reset": {"observation", …}, "steps": [{"action", "observation",
            "raw_score", "completed", "moves"}, …]}``.
        java: the Java executable.
        progress: called with the number of episodes replayed and their total number.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: a line of it is not a recorded episode.
        MissingExtraError: there is no Java, or the simulator is not installed.
        BackendError: the simulator failed.
    """
    java = find_java(java)
    worlds = World(java), World(java, same_hash=True)
    report = Comparison("ScienceWorld", transcripts.name)
    recordings = list(read_recordings(transcripts))
    n_in_other_order = 0
    try:
        for n_done, (number, episode) in enumerate(recordings, start=1):
            try:
                found = list(_differences(worlds[0], episode))
                if found and not list(_differences(worlds[1], episode)):
                    found = []
                    n_in_other_order += 1
                n_steps = len(episode["steps"])
            except (ValueError, LookupError, TypeError) as error:
                raise not_a_recording(transcripts, number, error) from None
            for difference in found:
                report.add(difference)
            report.n_episodes += 1
            report.n_steps += n_steps
            if progress is not None:
                progress(n_done, len(recordings))
    finally:
        for world in worlds:
            world.close()
    if n_in_other_order:
        report.remark = f"{n_in_other_order} episodes with the set order of -XX:hashCode=2"
    return report


def _differences(world: World, episode: Any) -> Iterator[Difference]:
    setup = Setup(str(episode["task"]), int(episode["variation"]), str(episode["simplification"]))
    begun = world.load(setup)
    expected = episode["reset"]["observation"]
    if begun.observation != expected:
        yield Difference(str(setup), 0, "", "observation", begun.observation, expected)
    for n_steps, step in enumerate(episode["steps"], start=1):
        outcome: Outcome = world.step(step["action"])
        for ours, theirs in _FIELDS.items():
            shown = getattr(outcome, ours)
            if shown != step[theirs]:
                yield Difference(str(setup), n_steps, step["action"], ours, shown, step[theirs])
