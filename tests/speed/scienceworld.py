"""How fast ScienceWorld is: `python tests/speed/scienceworld.py`.

Plays the expert's solutions of some tasks, one environment first, then 64 at once with one
simulating thread and with more, resets included; prints steps a second, CPU seconds a step (Python
and Java) and the memory of both. Where the stock package and its py4j can be imported, it plays the
same episodes in turns with ours, and the ratio is printed. Compare ratios: other programs share the
cores.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from eto_envs.scienceworld.bridge import TIMEOUT_S, shared_host
from eto_envs.scienceworld.env import ScienceWorldEnv, make_vector_env
from eto_envs.scienceworld.installed import THREADS_VARIABLE, count_workers, find_java
from eto_envs.scienceworld.tasks import simplifications_of
from eto_envs.scienceworld.world import Setup, gold_actions

# This file has the simulator's name, and a script's folder is searched first.
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

TASKS = ("boil", "melt", "use-thermometer", "power-component", "test-conductivity", "find-animal")
TASKS += ("grow-plant", "chemistry-mix", "lifespan-longest-lived", "identify-life-stages-2")
N_STEPS, N_ENVS, N_WARM_UPS, N_ROUNDS = 15, 64, 8, 8
OPTIONS: dict[str, Any] = {"split": "all", "dataset": "1.2.3", "max_steps": 1000}


class Cost(NamedTuple):
    """What some steps took."""

    n_steps: int
    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        return (
            f"{self.n_steps / self.wall_s:7.1f} steps/s, "
            f"{1000 * self.cpu_s / self.n_steps:6.2f} ms CPU a step"
        )


def cpu_s(*pids: int) -> float:
    """CPU time of processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def episodes(java: str) -> list[tuple[str, list[str]]]:
    """A task id and the simulator's own solution of it, for each task type."""
    made = []
    for task in TASKS:
        setup = Setup(task, 2, simplifications_of(task, "easy"))
        made.append((f"{task}/2", gold_actions(java, setup)[:N_STEPS]))
    return made


def play(env: ScienceWorldEnv, task: str, actions: list[str]) -> int:
    """One episode; how many steps it took."""
    env.reset(options={"task": task})
    for n_done, action in enumerate(actions, start=1):
        if env.step(action)[2]:
            return n_done
    return len(actions)


def play_stock(env: Any, task: str, actions: list[str]) -> int:
    """The same in the stock package, as ETO uses it."""
    name, _, variation = task.rpartition("/")
    env.load(name, int(variation), simplifications_of(name, "eto"))
    env.reset()
    for n_done, action in enumerate(actions, start=1):
        if env.step(action)[2]:
            return n_done
    return len(actions)


def measure(pids: tuple[int, ...], work: Any) -> Cost:
    """What a call took; it returns its number of steps."""
    started_s, started_cpu_s = time.perf_counter(), cpu_s(*pids)
    n_steps = work()
    return Cost(n_steps, time.perf_counter() - started_s, cpu_s(*pids) - started_cpu_s)


def total(costs: list[Cost]) -> Cost:
    """The sum."""
    return Cost(*(sum(column) for column in zip(*costs, strict=True)))  # type: ignore[arg-type]


def measure_one(java: str, made: list[tuple[str, list[str]]]) -> None:
    """One environment; in turns with the stock package if that is there."""
    env = ScienceWorldEnv(**OPTIONS)
    pids = (os.getpid(), shared_host(java).pid)
    for _ in range(N_WARM_UPS):
        for task, actions in made:
            play(env, task, actions)
    stock = open_stock(java)
    if stock is not None:
        for task, actions in made:
            play_stock(stock, task, actions)
    ours, theirs = [], []
    for task, actions in made * 2:
        ours.append(measure(pids, lambda t=task, a=actions: play(env, t, a)))
        if stock is not None:
            stock_pids = (os.getpid(), stock._gateway.java_process.pid)
            theirs.append(measure(stock_pids, lambda t=task, a=actions: play_stock(stock, t, a)))
    print(f"1 environment:     {total(ours)}")
    print(f"memory: {rss_mb(pids[0]):.0f} MB Python, {rss_mb(pids[1]):.0f} MB Java")
    if stock is None:
        print("the stock package or py4j is not installed: no ratio")
        return
    a, b = total(ours), total(theirs)
    print(f"stock package:     {b}")
    print(f"memory of its Java: {rss_mb(stock._gateway.java_process.pid):.0f} MB")
    print(f"ratio: {a.n_steps / a.wall_s / (b.n_steps / b.wall_s):.1f} x steps/s, ", end="")
    print(f"{b.cpu_s / b.n_steps / (a.cpu_s / a.n_steps):.1f} x less CPU")
    stock.close()


def open_stock(java: str) -> Any:
    """The stock environment, warm; None if it cannot be imported."""
    if any(importlib.util.find_spec(name) is None for name in ("py4j", "scienceworld")):
        return None
    os.environ["PATH"] = f"{Path(java).parent}{os.pathsep}{os.environ['PATH']}"
    from scienceworld import ScienceWorldEnv as StockEnv

    stock = StockEnv(envStepLimit=1000)
    play_stock(stock, "boil/2", ["look around"] * 30)
    return stock


class Crowd:
    """64 environments at once, in a process with some number of threads."""

    def __init__(self, java: str, made: list[tuple[str, list[str]]], n_workers: int) -> None:
        """Start them, and play one round to warm up."""
        os.environ[THREADS_VARIABLE] = str(n_workers)
        # Hosts are told apart by their time limit: each crowd has one of its own.
        timeout_s = TIMEOUT_S + n_workers
        self.n_workers = n_workers
        self._env = make_vector_env(
            num_envs=N_ENVS, autoreset_mode="Disabled", timeout_s=timeout_s, **OPTIONS
        )
        self._chosen = [made[i % len(made)] for i in range(N_ENVS)]
        self._host = shared_host(java, timeout_s)
        self._costs: list[Cost] = []
        self._round()

    def measure(self) -> None:
        """Play a round."""
        self._costs.append(measure((os.getpid(), self._host.pid), self._round))

    def __str__(self) -> str:
        return (
            f"{N_ENVS} environments, {self.n_workers} threads: {total(self._costs)}; "
            f"{rss_mb(self._host.pid):.0f} MB Java, {rss_mb(os.getpid()):.0f} MB Python"
        )

    def _round(self) -> int:
        self._env.reset(options={"tasks": [task for task, _ in self._chosen]})
        ended = [False] * N_ENVS
        n_steps = 0
        for turn in range(N_STEPS):
            actions = [
                None if ended[i] or turn >= len(actions) else actions[turn]
                for i, (_, actions) in enumerate(self._chosen)
            ]
            n_steps += sum(action is not None for action in actions)
            _, _, terminated, truncated, _ = self._env.step(actions)
            ended = list(terminated | truncated)
        return n_steps


def measure_many(java: str, made: list[tuple[str, list[str]]]) -> None:
    """Crowds with one thread, with the default number, and with one a core, in turns."""
    n_cores = os.cpu_count() or 1
    crowds = [Crowd(java, made, n) for n in sorted({1, count_workers(), n_cores})]
    for _ in range(N_ROUNDS):
        for crowd in crowds:
            crowd.measure()
    for crowd in crowds:
        print(crowd)


def main() -> None:
    """Print all measurements."""
    java = find_java()
    started_s = time.perf_counter()
    env = ScienceWorldEnv(**OPTIONS)
    env.reset(options={"task": 0})
    print(f"first observation after {time.perf_counter() - started_s:.2f} s")
    made = episodes(java)
    measure_one(java, made)
    measure_many(java, made)


if __name__ == "__main__":
    sys.exit(main())
