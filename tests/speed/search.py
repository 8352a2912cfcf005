"""How fast the search is: `python tests/speed/search.py [n_documents ...]`.

Each size runs in a process of its own, over a seeded catalogue whose words fall off as in real
text (Zipf). Queries are of three kinds: like an agent's, of frequent words only, of one word.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from eto_envs.webshop.search.index import SearchIndex
from eto_envs.webshop.search.words import Analyzer, analyze

SIZES = (1_000, 10_000, 100_000)
WORDS_PER_DOCUMENT = 120
N_QUERIES = 200
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "webshop" / "search"


def vocabulary(rng: random.Random, n_words: int) -> list[str]:
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st")]
    words: dict[str, None] = {}
    while len(words) < n_words:
        words["".join(rng.choices(syllables, k=rng.randint(1, 4)))] = None
    return list(words)


def texts(rng: random.Random, words: list[str], n_documents: int) -> Iterator[str]:
    weights, total = [], 0.0
    for rank in range(1, len(words) + 1):
        total += 1 / (rank + 2.7)
        weights.append(total)
    for _ in range(n_documents):
        n_words = int(rng.lognormvariate(math.log(WORDS_PER_DOCUMENT), 0.6))
        yield " ".join(rng.choices(words, cum_weights=weights, k=n_words))


def queries(rng: random.Random, words: list[str]) -> dict[str, list[str]]:
    def draw(highest: int, n_words: int) -> str:
        return " ".join(words[int(highest ** rng.random())] for _ in range(n_words))

    highest = len(words) - 1
    return {
        "usual (4 to 12 words)": [draw(highest, rng.randint(4, 12)) for _ in range(N_QUERIES)],
        "8 of the 50 commonest": [" ".join(rng.sample(words[:50], 8)) for _ in range(N_QUERIES)],
        "1 of the 50 commonest": words[:50],
    }


class PlainSearch:
    """BM25 with dictionaries, for the ratio."""

    def __init__(self, token_lists: list[list[str]]) -> None:
        self.lengths = [len(terms) for terms in token_lists]
        self.mean = sum(self.lengths) / len(self.lengths)
        self.postings: dict[str, list[tuple[int, int]]] = {}
        for row, terms in enumerate(token_lists):
            for term, count in Counter(terms).items():
                self.postings.setdefault(term, []).append((row, count))

    def top(self, query: str) -> list[int]:
        scores: dict[int, float] = {}
        for term in analyze(query):
            postings = self.postings.get(term, [])
            n = len(postings)
            weight = math.log(1 + (len(self.lengths) - n + 0.5) / (n + 0.5))
            for row, count in postings:
                norm = 0.9 * (0.6 + 0.4 * self.lengths[row] / self.mean)
                scores[row] = scores.get(row, 0.0) + weight * count / (count + norm)
        return sorted(scores, key=lambda row: (-scores[row], row))[:50]


def milliseconds(search: Callable[[str], object], asked: list[str], repeats: int) -> list[float]:
    times = []
    for query in asked:
        best = math.inf
        for _ in range(repeats):
            begun = time.perf_counter()
            search(query)
            best = min(best, time.perf_counter() - begun)
        times.append(best * 1000)
    return sorted(times)


def show(title: str, times: list[float], plain: list[float] | None = None) -> None:
    median, p95 = times[len(times) // 2], times[len(times) * 95 // 100]
    line = f"  {title}: median {median:.3f} ms, 95 % {p95:.3f} ms"
    if plain:
        line += f"; plain Python {plain[len(plain) // 2]:.2f} ms"
        line += f" ({plain[len(plain) // 2] / median:.0f} times as long)"
    print(line)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n_documents: int) -> None:
    rng = random.Random(7)
    words = vocabulary(rng, 2_000 + n_documents // 2)
    ids = [f"B{row:09d}" for row in range(n_documents)]
    analyzer = Analyzer()
    analyzing_s = 0.0

    def token_lists() -> Iterator[list[str]]:
        nonlocal analyzing_s
        for text in texts(random.Random(8), words, n_documents):
            begun = time.perf_counter()
            terms = analyzer.analyze(text)
            analyzing_s += time.perf_counter() - begun
            yield terms

    texts_s = -time.perf_counter()
    for _ in texts(random.Random(8), words, n_documents):
        pass
    texts_s += time.perf_counter()
    before = peak_megabytes()
    begun = time.perf_counter()
    index = SearchIndex.build(ids, token_lists())
    build_s = time.perf_counter() - begun - analyzing_s - texts_s
    peak = peak_megabytes()
    print(f"{n_documents:,} documents: analysis {analyzing_s:.1f} s, build {build_s:.1f} s")
    print(f"  peak memory {peak:.0f} MB, {before:.0f} MB of it before the build")
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        size = sum(path.stat().st_size for path in (Path(folder) / "index").iterdir())
        begun = time.perf_counter()
        opened = SearchIndex.open(Path(folder) / "index")
        opened_ms = (time.perf_counter() - begun) * 1000
        print(f"  {size / 2**20:.0f} MB in files, opened in {opened_ms:.1f} ms")
        report(opened, words, n_documents)


def report(opened: SearchIndex, words: list[str], n_documents: int) -> None:
    plain = None
    if n_documents <= 10_000:  # more would take gigabytes
        plain = PlainSearch([analyze(text) for text in texts(random.Random(8), words, n_documents)])
    for title, asked in queries(random.Random(9), words).items():
        # `_ranking` is the search without its memory of past queries.
        times = milliseconds(lambda query: opened._ranking(query, 50), asked, 3)
        plain_times = milliseconds(plain.top, asked[:20], 1) if plain else None
        show(title, times, plain_times)


def measure_recorded() -> None:
    for name in "AB":
        corpus = RECORDED / f"corpus_{name}.json.gz"
        if not corpus.exists():
            continue
        documents = json.loads(gzip.decompress(corpus.read_bytes()))
        asked = json.loads(gzip.decompress((RECORDED / f"top50_{name}.json.gz").read_bytes()))
        token_lists = [analyze(document["contents"]) for document in documents]
        index = SearchIndex.build([document["id"] for document in documents], token_lists)
        print(f"recorded corpus {name}: {len(documents):,} documents")
        times = milliseconds(
            lambda query, index=index: index._ranking(query, 50), asked["queries"], 5
        )
        show("its queries", times, milliseconds(PlainSearch(token_lists).top, asked["queries"], 1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        measure_recorded()
        for n_documents in map(int, sys.argv[1:]) if sys.argv[1:] else SIZES:
            subprocess.run([sys.executable, __file__, "--one", str(n_documents)], check=True)
