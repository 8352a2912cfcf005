"""How many Ray actors one writer can feed: `python tests/speed/cluster.py`.

Two actors play 4,000 short episodes of WebShop's mini dataset with random actions. The CPU time
that the driver takes for an episode (receiving its line, writing it, showing progress) is compared,
in the same run, with what playing it and writing its line takes: the ratio is the number of actors
that one driver feeds. What it would be if the driver parsed every line is printed beside it.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # of the checkout that is measured
os.environ["PYTHONPATH"] = sys.path[0]

from eto_agents.console import Display, Episodes, Progress
from eto_agents.distributed import Cluster, Work
from eto_agents.live_episode import Job
from eto_agents.policies.simple import RandomPolicy
from eto_agents.rollout import Rollouts, jobs_of, make_batch, open_task_set
from eto_agents.store import TrajectoryStore

ENV = "ETO-WebShop-v0"
ARGS = {"dataset": "mini", "split": "seen"}
N_EPISODES = 4_000


def main() -> None:
    """Play, and print the figures."""
    tasks = open_task_set(ENV, "seen", {"dataset": "mini"})
    jobs = jobs_of(tasks, range(-(-N_EPISODES // len(tasks))))[:N_EPISODES]
    work = Work(ENV, ARGS, tasks.sha256, 32, None)
    with (
        Cluster(RandomPolicy, n_actors=2) as players,
        tempfile.TemporaryDirectory() as folder,
        TrajectoryStore(Path(folder) / "episodes.jsonl") as store,
        Display(quiet=True),
    ):
        show = Episodes()
        list(players.play(work, jobs[:64]))  # starts everything
        began_s, began_cpu_s = time.perf_counter(), driver_cpu_s()
        n_done = 0
        for block in players.play(work, jobs):
            store.append_lines(block.lines)
            for summary in block.summaries:
                n_done += 1
                show(Progress("seen", n_done, len(jobs), summary))
        wall_s, driver_s = time.perf_counter() - began_s, driver_cpu_s() - began_cpu_s
        parsed_s = time.process_time()
        episodes = list(store.read())
        parse_ms = 1000 * (time.process_time() - parsed_s) / len(episodes)
    driver_ms = 1000 * driver_s / len(episodes)
    assert len(episodes) == len(jobs)
    play_ms = playing_ms(jobs[:1000])
    print(f"{len(episodes):,} episodes on 2 actors: {len(episodes) / wall_s:.0f} episodes/s")
    print(f"CPU time per episode: playing {play_ms:.2f} ms, driver {driver_ms:.3f} ms")
    print(f"one driver feeds {play_ms / driver_ms:.0f} actors")
    print(f"had it parsed every line ({parse_ms:.2f} ms): {play_ms / (driver_ms + parse_ms):.0f}")


def driver_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def playing_ms(jobs: Sequence[Job]) -> float:
    """CPU milliseconds for one episode, as an actor plays it."""
    policy = RandomPolicy()
    env = make_batch(ENV, policy, 32, ARGS)
    began_s = time.process_time()
    for episode in Rollouts(policy, env, jobs):
        episode.to_json()
    return 1000 * (time.process_time() - began_s) / len(jobs)


if __name__ == "__main__":
    main()
