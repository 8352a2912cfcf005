"""Holds ScienceWorld against episodes that the stock package was recorded playing.

Stock 1.2.3 walks sets of objects in an order that differs from process to process; a recording has
one of the two orders that can be repeated: objects' ids, which is how this library runs the
simulator, or the JVM's ``-XX:hashCode=2``. An episode that is not the same in the first order is
played in the second, and the report says how many those were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eto_envs.comparison import Comparison, Difference, no_recording, read_recordings
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
    """Play recorded episodes again.

    Args:
        transcripts: JSON lines, may be gzipped: ``{"task", "variation", "simplification",
            "reset": {"observation", …}, "steps": [{"action", "observation", "raw_score",
            "completed", "moves"}, …]}``.
        java: the Java to run.
        progress: called with the number of episodes done and of all.

    Raises:
        DataNotFoundError: there is no such file.
        CorruptDataError: a line of it is no recorded episode.
        MissingExtraError: there is no Java, or the simulator is not installed.
        BackendError: the simulator failed.
    """
    java = find_java(java)
    worlds = World(java), World(java, same_hash=True)
    report = Comparison("ScienceWorld", transcripts.name)
    recordings = list(read_recordings(transcripts))
    n_other = 0
    try:
        for n_done, (number, episode) in enumerate(recordings, start=1):
            try:
                found = list(_differences(worlds[0], episode))
                if found and not list(_differences(worlds[1], episode)):
                    found = []
                    n_other += 1
                n_steps = len(episode["steps"])
            except (ValueError, LookupError, TypeError) as error:
                raise no_recording(transcripts, number, error) from None
            for difference in found:
                report.add(difference)
            report.n_episodes += 1
            report.n_steps += n_steps
            if progress is not None:
                progress(n_done, len(recordings))
    finally:
        for world in worlds:
            world.close()
    if n_other:
        report.note = f"{n_other} episodes in the order of sets of -XX:hashCode=2"
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
