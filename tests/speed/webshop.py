"""How fast WebShop's engine is: `python tests/speed/webshop.py`.

Every step reads the text and the clickables, as an agent's loop does; a repetition starts with
empty search results, which the shop otherwise remembers. The shop is the real catalogue's where it
lies beside the checkout, else the mini one. Compare ratios: other programs share the cores.
"""

from __future__ import annotations

import gzip
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.datasets import find_bundle
from eto_envs.webshop.data.shop import Shop
from eto_envs.webshop.engine.engine import WebShopEngine
from eto_envs.webshop.expert import plan

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "webshop"
N_EPISODES, N_STEPS, N_REPETITIONS, N_INTERLEAVED = 192, 15, 7, 64

Episode = tuple[int, list[str]]


def bundle_in(folder: Path) -> Path:
    """A bundle of the real catalogue, or the mini one."""
    if not RECORDED.is_dir():
        return find_bundle("mini")
    source = folder / "catalogue"
    source.mkdir(parents=True)
    for file in (RECORDED / "catalogue").iterdir():
        shutil.copyfile(file, source / file.name)
    nouns = (RECORDED / "golden" / "nouns_md38.json.gz").read_bytes()
    (source / "nouns.json").write_bytes(gzip.decompress(nouns))
    return build_bundle(source, folder / "bundle")


def episodes(engine: WebShopEngine) -> list[Episode]:
    """Half of them an expert's, half random walks with one invalid action in ten."""
    rng = random.Random(0)
    made: list[Episode] = []
    for number in range(N_EPISODES):
        index = rng.randrange(len(engine.shop.goals))
        if number % 2:
            made.append((index, plan(engine, engine.shop.goals[index])))
            continue
        words = engine.shop.goals[index].instruction.split()
        session, actions = engine.start(index), []
        while len(actions) < N_STEPS:
            clickables = [text for text in engine.clickables(session) if text != "search"]
            action = f"search[{' '.join(rng.sample(words, min(5, len(words))))}]"
            if clickables and rng.random() > 0.1:
                action = f"click[{rng.choice(clickables)}]"
            if rng.random() < 0.1:
                action = "click[nothing of the kind]"
            actions.append(action)
            session = engine.step(session, action).session
        made.append((index, actions))
    return made


def kind_of(action: str, before: Any, outcome: Any) -> str:
    """What a step did, in words."""
    after = outcome.session
    if not outcome.is_valid:
        return "invalid action"
    if action.startswith("search"):
        return "search"
    if after.kind == "results":
        return "turn page"
    names = {"index": "back to search", "sub": "sub page", "done": "buy"}
    opened = "open item" if before.kind == "results" else "option or back to item"
    return names.get(after.kind, opened)


def forget_searches(shop: Any) -> None:
    shop._index._remembered.cache_clear()


def seconds_by_kind(engine: WebShopEngine, made: list[Episode]) -> dict[str, list[float]]:
    """Durations of single steps."""
    seconds: dict[str, list[float]] = defaultdict(list)
    forget_searches(engine.shop)
    for index, actions in made:
        session = engine.start(index)
        for action in actions:
            started_s = time.perf_counter()
            outcome = engine.step(session, action)
            engine.text(outcome.session)
            engine.clickables(outcome.session)
            taken_s = time.perf_counter() - started_s
            seconds[kind_of(action, session, outcome)].append(taken_s)
            session = outcome.session
    return seconds


def steps_per_s(engine: WebShopEngine, made: list[Episode], n_at_once: int) -> float:
    """Steps a second with `n_at_once` sessions taking turns."""
    forget_searches(engine.shop)
    n_steps = sum(len(actions) for _, actions in made)
    started_s = time.perf_counter()
    for first in range(0, len(made), n_at_once):
        group = made[first : first + n_at_once]
        sessions = [engine.start(index) for index, _ in group]
        for turn in range(max(len(actions) for _, actions in group)):
            for place, (_, actions) in enumerate(group):
                if turn < len(actions):
                    session = engine.step(sessions[place], actions[turn]).session
                    engine.text(session)
                    engine.clickables(session)
                    sessions[place] = session
    return n_steps / (time.perf_counter() - started_s)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for goals in ("human", "synthetic"):
            shop = Shop(bundle_in(Path(folder) / goals), goals=goals)
            engine = WebShopEngine(shop)
            made = episodes(engine)
            report(goals, engine, made)


def report(goals: str, engine: WebShopEngine, made: list[Episode]) -> None:
    n_steps = sum(len(actions) for _, actions in made)
    print(f"{goals} goals, {len(engine.shop.asins)} products, {n_steps} steps", file=sys.stderr)
    seconds_by_kind(engine, made)  # fills the caches of products
    for kind, seconds in sorted(seconds_by_kind(engine, made).items()):
        median_s = statistics.median(seconds)
        print(f"  {kind:24}{1 / median_s:10,.0f} steps/s   {len(seconds):5} steps")
    single, many = [], []
    for _ in range(N_REPETITIONS):  # in turns, so that both meet the same load
        single.append(steps_per_s(engine, made, 1))
        many.append(steps_per_s(engine, made, N_INTERLEAVED))
    one, interleaved = statistics.median(single), statistics.median(many)
    print(f"  1 session               {one:10,.0f} steps/s (best {max(single):,.0f})")
    print(
        f"  {N_INTERLEAVED} sessions in turns    {interleaved:10,.0f} steps/s"
        f"   {interleaved / one:.2f} of 1 session's"
    )


if __name__ == "__main__":
    main()
