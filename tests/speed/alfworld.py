"""How fast ALFWorld is: `python tests/speed/alfworld.py`.

Prints load and reset, steps with and without the admissible list, a vector of 64 and the memory
over 10,000 episodes; where TextWorld is installed, also its own numbers in the same run and the
ratio. The games are the official ones of release 2.1.1 where their archive lies beside the
checkout, else the mini ones, which TextWorld cannot play. Compare ratios: other programs share
the cores.
"""

from __future__ import annotations

import importlib.util
import os
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from eto_envs.alfworld.data.datasets import Dataset, open_dataset
from eto_envs.alfworld.data.games import find_games
from eto_envs.alfworld.data.pack import build_pack
from eto_envs.alfworld.data.reading import read_game
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.alfworld.env import ALFWorldEnv, make_vector_env
from eto_envs.alfworld.stock import StockEngine

ARCHIVE = Path(__file__).resolve().parents[3] / "shared/data/alfworld/alfworld-2.1.1.tar.xz"
N_GAMES, N_STEPS, N_REPETITIONS, N_ENVS = 60, 30, 5, 64
N_EPISODES, EPISODE_STEPS = 10_000, 10
N_STOCK_GAMES, N_STOCK_STEPS = 6, 10

Walk = tuple[str, list[str]]


def official_folder() -> Path | None:
    """The unpacked official files; unpacked once on a machine, where the tests have them, too."""
    if not ARCHIVE.is_file():
        return None
    name = f"eto-gym-tests-alfworld-2.1.1-{ARCHIVE.stat().st_size}"
    folder = Path(tempfile.gettempdir()) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
            with tarfile.open(ARCHIVE) as tar:
                tar.extractall(unfinished, filter="data")
            unfinished.rename(folder)
    return folder


def find_dataset(folder: Path | None) -> str:
    if folder is None:
        return "mini"
    pack = folder.with_suffix(".pack")
    with FileLock(f"{pack}.lock"):
        if not pack.exists():
            build_pack(folder, pack)
    return str(pack)


def row(label: str, value: str) -> None:
    print(f"{label:32}{value}")


def walks(dataset: Dataset) -> list[Walk]:
    """Random walks over admissible commands, one in ten of them wrong."""
    rng = random.Random(0)
    ids = [task_id for part in dataset.pack.splits.values() for task_id in part]
    made = []
    for task_id in rng.sample(ids, N_GAMES):
        game = Game(dataset.pack.problem(task_id), dataset.grammar)
        state, commands = game.start, []
        for _ in range(N_STEPS):
            known = admissible_commands(game, state)
            commands.append("go nowhere" if rng.random() < 0.1 else rng.choice(known))
            state = step(game, state, commands[-1]).state
        made.append((task_id, commands))
    return made


def median_s(act: Callable[[], Any]) -> float:
    """The median of several runs, in seconds."""
    taken_s = []
    for _ in range(N_REPETITIONS):
        started_s = time.perf_counter()
        act()
        taken_s.append(time.perf_counter() - started_s)
    return statistics.median(taken_s)


def engine_numbers(dataset: Dataset, folder: Path | None, made: list[Walk]) -> tuple[float, float]:
    """Print the engine's; return seconds of a reset from the file and of a step with its list."""
    games = {i: Game(dataset.pack.problem(i), dataset.grammar) for i, _ in made}

    def reset_from_pack() -> None:
        for task_id, _ in made:
            introduction(Game(dataset.pack.problem(task_id), dataset.grammar))

    def walk(*, with_list: bool) -> None:
        for task_id, commands in made:
            game = games[task_id]
            state = game.start
            for command in commands:
                state = step(game, state, command).state
                if with_list:
                    admissible_commands(game, state)

    from_pack_s = from_file_s = median_s(reset_from_pack) / N_GAMES
    row("load and reset, from the pack", f"{from_pack_s * 1e3:10.3f} ms")
    if folder is not None:
        paths = {game.task_id: game.path for game in find_games(folder)}

        def reset_from_file() -> None:
            for task_id, _ in made:
                introduction(Game(*read_game(paths[task_id])))

        from_file_s = median_s(reset_from_file) / N_GAMES
        row("load and reset, from the file", f"{from_file_s * 1e3:10.3f} ms")
    step_s = median_s(lambda: walk(with_list=False)) / (N_GAMES * N_STEPS)
    listed_s = median_s(lambda: walk(with_list=True)) / (N_GAMES * N_STEPS)
    row("engine", f"{1 / step_s:10,.0f} steps/s")
    row("engine, admissible list", f"{1 / listed_s:10,.0f} steps/s")
    return from_file_s, listed_s


def env_numbers(dataset: str, made: list[Walk]) -> None:
    """Print the environment's: one alone, and a vector of 64."""
    reveal = ("admissible_actions",)
    for names in ((), reveal):
        env = ALFWorldEnv("all", dataset=dataset, reveal=names)

        def walk(env: ALFWorldEnv = env) -> None:
            for task_id, commands in made:
                env.reset(options={"task": task_id})
                for command in commands:
                    env.step(command)

        label = "environment, resets" + (", list" if names else "")
        row(label, f"{N_GAMES * N_STEPS / median_s(walk):10,.0f} steps/s")
    envs = make_vector_env(
        num_envs=N_ENVS, split="all", dataset=dataset, reveal=reveal, max_steps=N_STEPS
    )
    envs.reset(seed=0)
    rng = random.Random(0)

    def walk_together() -> None:
        _, infos = envs.reset()
        for _ in range(N_STEPS):
            actions = [rng.choice(known) for known in infos["admissible_actions"]]
            *_, infos = envs.step(actions)

    rate = N_ENVS * N_STEPS / median_s(walk_together)
    row(f"vector of {N_ENVS}, resets, list", f"{rate:10,.0f} steps/s")
    envs.close()


def rss_mib() -> float:
    """The memory of this process that is in RAM, by /proc."""
    n_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return n_pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_numbers(dataset: str) -> None:
    """Print the memory after a tenth and at the end of many short episodes of all games."""
    env = ALFWorldEnv("all", dataset=dataset, reveal=("admissible_actions",))
    rng = random.Random(0)
    after_mib = []
    for n_episodes in range(1, N_EPISODES + 1):
        _, info = env.reset(options={"task": n_episodes % len(env.tasks)})
        for _ in range(EPISODE_STEPS):
            _, _, terminated, _, info = env.step(rng.choice(info["admissible_actions"]))
            if terminated:
                break
        if n_episodes % (N_EPISODES // 10) == 0:
            after_mib.append(rss_mib())
    # All pages of the memory-mapped pack are read by the middle: what comes later would be a leak.
    middle, last = after_mib[4], after_mib[-1]
    row(
        f"memory over {N_EPISODES:,} episodes",
        f"{after_mib[0]:10.1f} MiB at a tenth, {middle:.1f} at half, {last:.1f} at the end",
    )


def stock_numbers(
    folder: Path | None, made: list[Walk], native_reset_s: float, native_step_s: float
) -> None:
    """Print TextWorld's over some of the walks, and the ratios."""
    if folder is None or importlib.util.find_spec("fast_downward") is None:
        print("TextWorld: needs the official games and the extra alfworld")
        return
    stock = StockEngine({game.task_id: game.path for game in find_games(folder)})
    reset_s, step_s = [], []
    for task_id, commands in made[:N_STOCK_GAMES]:
        started_s = time.perf_counter()
        stock.start(task_id)
        reset_s.append(time.perf_counter() - started_s)
        for command in commands[:N_STOCK_STEPS]:
            started_s = time.perf_counter()
            stock.step(command)
            step_s.append(time.perf_counter() - started_s)
    theirs, native = statistics.mean(reset_s), native_reset_s
    row("TextWorld, load and reset", f"{theirs * 1e3:10.0f} ms, {theirs / native:,.0f} times ours")
    theirs, native = statistics.mean(step_s), native_step_s
    row("TextWorld, list", f"{1 / theirs:10.1f} steps/s, ours is {theirs / native:,.0f} times that")


def main() -> None:
    folder = official_folder()
    name = find_dataset(folder)
    dataset = open_dataset(name)
    n_games = sum(len(part) for part in dataset.pack.splits.values())
    print(f"dataset {dataset.name}, {n_games:,} games")
    made = walks(dataset)
    reset_s, listed_s = engine_numbers(dataset, folder, made)
    env_numbers(name, made)
    memory_numbers(name)
    stock_numbers(folder, made, reset_s, listed_s)


if __name__ == "__main__":
    main()
