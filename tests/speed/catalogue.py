"""How building, opening and searching grow with the catalogue: `python tests/speed/catalogue.py`.

Catalogues of 1,000, 10,000 and 100,000 generated products in the official files' layout (names for
other sizes as arguments). Building and playing run in a child process each, so that their peak
memory is their own.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym

import eto_envs  # noqa: F401 (registers the ids)
from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.shop import open_shop

SIZES = (1_000, 10_000, 100_000)
N_WORDS, N_QUERIES, N_STEPS = 20_000, 200, 3_000


def products(n: int) -> Iterator[dict[str, Any]]:
    """Products whose words follow Zipf's law, about 900 letters each."""
    rng = random.Random(n)
    letters = "aeioubcdfglmnprstv"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(N_WORDS)]
    weights = [1 / (rank + 10) for rank in range(N_WORDS)]
    for number in range(n):
        text = rng.choices(words, weights, k=120)
        yield {
            "asin": f"B{number:09d}",
            "name": " ".join(text[:14]),
            "query": text[20],
            "category": text[21][:3],
            "product_category": " › ".join(text[21:24]),
            "full_description": " ".join(text[24:70]),
            "small_description": [" ".join(text[70:90]), " ".join(text[90:])],
            "pricing": f"${rng.randint(5, 200)}.99",
            "customization_options": {
                "Color": [{"value": word} for word in text[14:17]],
                "Size": [{"value": word} for word in text[17:20]],
            },
            "images": [],
        }


def write(source: str, n: str) -> None:
    """The three official files."""
    folder = Path(source)
    folder.mkdir()
    attributes, human = {}, {}
    with (folder / "items_shuffle.json").open("w", encoding="utf-8") as file:
        for number, product in enumerate(products(int(n))):
            file.write(("[" if number == 0 else ",\n") + json.dumps(product))
            wanted = product["name"].split()[:2]
            attributes[product["asin"]] = {"attributes": wanted}
            if number % 10 == 0:
                entry = {"instruction": f"i want {' '.join(wanted)}."}
                entry |= {"instruction_attributes": wanted, "instruction_options": []}
                human[product["asin"]] = [entry]
        file.write("]")
    (folder / "items_ins_v2.json").write_text(json.dumps(attributes))
    (folder / "items_human_ins.json").write_text(json.dumps(human))


def peak_megabytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def build(source: str, target: str) -> None:
    started_s = time.perf_counter()
    build_bundle(Path(source), Path(target), nouns="heuristic")
    print(f"build {time.perf_counter() - started_s:7.1f} s, peak {peak_megabytes()} MB", end="; ")


def play(bundle: str) -> None:
    before = peak_megabytes()
    started_s = time.perf_counter()
    shop = open_shop(Path(bundle))
    opened_ms = 1e3 * (time.perf_counter() - started_s)
    goals = [shop.goals[i] for i in range(min(N_QUERIES, len(shop.goals)))]
    shop.search("warm up")
    times_ms = []
    for goal in goals:
        started_s = time.perf_counter()
        shop.search(goal.instruction)
        times_ms.append(1e3 * (time.perf_counter() - started_s))
    env = gym.make("ETO-WebShop-v0", dataset=bundle, split="all", reveal=("admissible_actions",))
    env.reset(seed=0)
    rng = random.Random(0)
    started_s = time.perf_counter()
    ended = True
    for _ in range(N_STEPS):
        if ended:
            _, info = env.reset()
        action = rng.choice(info["admissible_actions"])
        if "<keywords>" in action or action == "click[search]":
            action = f"search[{info['goal']}]"
        _, _, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
    rate = N_STEPS / (time.perf_counter() - started_s)
    print(
        f"open {opened_ms:.1f} ms; search median {statistics.median(times_ms):.2f} ms, "
        f"95th {sorted(times_ms)[int(0.95 * len(times_ms))]:.2f} ms; {rate:,.0f} steps/s; "
        f"RSS {before} MB before, {peak_megabytes()} MB after"
    )


STEPS: dict[str, Callable[..., None]] = {"write": write, "build": build, "play": play}


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        STEPS[sys.argv[1]](*sys.argv[2:])
        return
    for n in [int(a) for a in sys.argv[1:]] or SIZES:
        with tempfile.TemporaryDirectory() as folder:
            source, bundle = f"{folder}/source", f"{folder}/bundle"
            print(f"{n:,} products:", end=" ", flush=True)
            for step in (["write", source, str(n)], ["build", source, bundle], ["play", bundle]):
                subprocess.run([sys.executable, __file__, *step], check=True)


if __name__ == "__main__":
    main()
