from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eto_envs.errors import EtoError
from eto_envs.webshop.search import index as search
from eto_envs.webshop.search.index import SearchIndex, TooManyTermsError
from eto_envs.webshop.search.words import analyze


def kept_length(length: int) -> int:
    """`SmallFloat.byte4ToInt(SmallFloat.intToByte4(length))`, step by step."""
    if length < 24:
        return length
    rest = length - 24
    if rest.bit_length() < 4:
        return length
    shift = rest.bit_length() - 4
    encoded = (rest >> shift & 7) | shift + 1 << 3
    return 24 + ((encoded & 7 | 8) << (encoded >> 3) - 1)


def plain_ranking(
    ids: list[str], lists: list[list[str]], query: list[str], k: int
) -> list[tuple[int, float]]:
    """Lucene's BM25, one document and one term at a time."""
    f32 = np.float32
    filled = [terms for terms in lists if terms]
    mean = f32(sum(map(len, filled)) / max(1, len(filled)))
    scored = []
    for row, terms in enumerate(lists):
        total, counts = 0.0, Counter(terms)
        for term, times_asked in Counter(query).items():
            if not counts[term]:
                continue
            n = sum(term in other for other in lists)
            idf = f32(math.log(1 + (len(filled) - n + 0.5) / (n + 0.5)))
            length = f32(kept_length(len(terms)))
            norm = f32(1) / (f32(0.9) * ((f32(1) - f32(0.4)) + f32(0.4) * length / mean))
            weight = f32(times_asked) * idf
            total += float(weight - weight / (f32(1) + f32(counts[term]) * norm))
        if total:
            scored.append((row, float(f32(total))))
    return sorted(scored, key=lambda hit: (-hit[1], ids[hit[0]]))[:k]


WORDS = ["red", "blue", "shoe", "shirt", "sock", "cotton", "wool", "xl"]
SKEWED = st.sampled_from([word for i, word in enumerate(WORDS) for _ in range(2 ** (7 - i))])
LISTS = st.lists(st.lists(SKEWED, max_size=30), max_size=25)


@settings(deadline=None)
@given(LISTS, st.lists(SKEWED, max_size=6), st.integers(0, 6), st.sampled_from([0, 4_096]))
def test_equals_plain_bm25(lists: list[list[str]], query: list[str], k: int, few: int) -> None:
    ids = [f"{row * 7 % 26:02}" for row in range(len(lists))]  # not in the order of the rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FEW_POSTINGS", few)
        index = SearchIndex.build(ids, lists)
        assert index.top_scored(" ".join(query), k) == plain_ranking(ids, lists, query, k)


@pytest.mark.parametrize("few", [0, 4_096])
def test_equals_plain_bm25_on_more_documents(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(search, "FEW_POSTINGS", few)
    rng = np.random.default_rng(3)
    lists = [[f"w{w % 97}" for w in rng.zipf(1.3, rng.integers(1, 60))] for _ in range(300)]
    ids = [f"{row * 7 % 300:03}" for row in range(300)]
    index = SearchIndex.build(ids, lists)
    for _ in range(60):
        query = [f"w{w % 97}" for w in rng.zipf(1.3, rng.integers(1, 12))]
        assert index.top_scored(" ".join(query), 5) == plain_ranking(ids, lists, query, 5)


def test_looks_common_words_up_only_where_they_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [["all"] * (row % 9 + 1) for row in range(300)]
    for row in (7, 50, 120, 121, 299):
        lists[row] += ["rare"] * (row % 4 + 1)
    ids = [f"{row * 7 % 300:03}" for row in range(300)]
    index = SearchIndex.build(ids, lists)
    looked_up = []
    look_up = index._look_up
    monkeypatch.setattr(index, "_look_up", lambda *a: looked_up.append(a) or look_up(*a))
    monkeypatch.setattr(search, "FEW_POSTINGS", 0)
    assert index.top_scored("all rare", 3) == plain_ranking(ids, lists, ["all", "rare"], 3)
    assert looked_up


def read_gz(path: Path) -> object:
    return json.loads(gzip.decompress(path.read_bytes()))


@pytest.mark.data
@pytest.mark.parametrize("corpus", ["A", "B"])
def test_reproduces_lucene(shared_data: Path, tmp_path: Path, corpus: str) -> None:
    folder = shared_data / "webshop" / "search"
    documents = read_gz(folder / f"corpus_{corpus}.json.gz")
    recorded = read_gz(folder / f"top50_{corpus}.json.gz")
    ids = [document["id"] for document in documents]
    built = SearchIndex.build(ids, (analyze(document["contents"]) for document in documents))
    built.save(tmp_path / "index")
    opened = SearchIndex.open(tmp_path / "index")
    assert len(recorded["queries"]) == len(recorded["top50"]) == 150
    for query, hits in zip(recorded["queries"], recorded["top50"], strict=True):
        found = opened.top_scored(query)
        assert [ids[row] for row, _ in found] == [asin for asin, _ in hits]
        assert [score for _, score in found] == pytest.approx([s for _, s in hits], abs=1e-4)
        assert found == built.top_scored(query)


@pytest.fixture(scope="module")
def index() -> SearchIndex:
    rng = np.random.default_rng(1)
    lists = [[f"w{w % 500}" for w in rng.zipf(1.4, 20)] for _ in range(400)]
    return SearchIndex.build([f"B{row:03}" for row in range(400)], lists)


def test_answers(index: SearchIndex) -> None:
    assert len(index) == 400
    assert len(index.top("w1 w2")) == 50
    assert index.top("w1 w2", 10_000)[:50] == index.top("w1 w2")
    assert [row for row, _ in index.top_scored("w1 w2", 7)] == index.top("w1 w2", 7)
    assert index.top("W1 unheard") == index.top("w1")
    for nothing in ("", " ", "unheard", "the", "\ud800"):
        assert index.top(nothing) == []
    assert index.top("w1", 0) == index.top("w1", -1) == []


def test_answers_belong_to_the_caller(index: SearchIndex) -> None:
    expected = list(index.top("w3"))
    index.top("w3").clear()
    index.top_scored("w3").clear()
    assert index.top("w3") == expected


def test_repeated_words_weigh_more() -> None:
    index = SearchIndex.build(["a", "b"], [["red", "shoe"], ["blue", "shoe"]])
    assert index.top("red blue blue") == [1, 0]
    assert index.top("red red red blue blue") == [0, 1]
    assert index.top("blue red") == [0, 1]


def test_no_documents() -> None:
    assert SearchIndex.build([], []).top("red") == []
    assert SearchIndex.build(["a"], [[]]).top("red") == []


def test_too_many_terms(index: SearchIndex) -> None:
    assert index.top(" ".join(f"w{n}" for n in range(1024))) != []
    query = " ".join(f"w{n}" for n in range(1025))
    with pytest.raises(TooManyTermsError, match="1025 distinct words") as caught:
        index.top(query)
    assert isinstance(caught.value, EtoError)
    assert isinstance(caught.value, ValueError)
    assert index.top("w7 " * 5_000) == index.top("w7")


@settings(deadline=None)
@given(query=st.text())
def test_takes_any_query(index: SearchIndex, query: str) -> None:
    assert index.top(query) == index.top(query)
    assert index.top_scored(query) == list(index._ranking(query, 50))


@pytest.mark.parametrize("query", ["w1 " * 33_000, "_" * 100_000, "w1'" * 30_000, "😀" * 50_000])
def test_odd_queries_take_no_time(index: SearchIndex, query: str) -> None:
    begun_s = time.process_time()
    index.top(query)
    assert time.process_time() - begun_s < 20  # well under a second; quadratic: minutes


def test_an_interrupted_search_leaves_nothing_behind(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = index.top_scored("w1 w2 w3")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "_at_least", interrupt)
    with pytest.raises(KeyboardInterrupt):
        index.top("w1 w4 w5")
    monkeypatch.undo()
    assert list(index._ranking("w1 w2 w3", 50)) == expected


def test_threads_share_an_index(index: SearchIndex) -> None:
    queries = [f"w{n} w{n // 2} w1" for n in range(40)]
    expected = [index._ranking(query, 50) for query in queries]
    answers: dict[int, list[object]] = {}

    def ask(thread: int) -> None:
        answers[thread] = [index._ranking(query, 50) for query in queries * 5]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answers[n] == expected * 5 for n in range(4))


def test_needs_no_nltk(index: SearchIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "index")
    code = (
        "import sys; from pathlib import Path; "
        "from eto_envs.webshop.search.index import SearchIndex; "
        "index = SearchIndex.open(Path(sys.argv[1])); "
        "assert index.top('w1 unheard words') == index.top('w1'); "
        "sys.exit('nltk' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "index")]
    assert subprocess.run(command, check=False).returncode == 0
