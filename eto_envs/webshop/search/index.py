"""The search of the shop: the ranking of Lucene 8.11 under Anserini, to the position, without Java.

It gives the order and the scores of `LuceneSearcher.search` in pyserini 0.17.0, which the original
asks in `web_agent_site/engine/engine.py` (`get_top_n_product_from_keywords`): BM25 over the bag of
a query's words; equal scores in the order of the ids. The original's special queries (`<r>`, `<a>`,
`<c>`, `<q>`) belong to the engine.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eto_envs.errors import EtoError
from eto_envs.webshop.search.postings import Array, Postings
from eto_envs.webshop.search.words import Analyzer

MAX_TERMS = 1024  # Lucene's `BooleanQuery.maxClauseCount`
MAX_REMEMBERED_QUERIES = 256
MAX_REMEMBERED_CHARACTERS = 1_000  # a longer query is answered anew each time

# Fewer postings than this are simply added up: leaving some out costs more than it saves.
FEW_POSTINGS = 4_096

# Below this part of a score, two sums of the same numbers in different order may differ.
_ROUNDING = 1e-6


class TooManyTermsError(EtoError, ValueError):
    """A query has over 1,024 different words; the original fails with `TooManyClauses`."""


class _Clause(NamedTuple):
    """One term of a query: where its postings are and what it can add to a score at most."""

    first: int
    last: int
    weight: np.float32
    bound: float


class SearchIndex:
    """An index that answers queries; threads and environments may share it."""

    def __init__(self, postings: Postings) -> None:
        """Search in these postings."""
        self._postings = postings
        self._analyze = Analyzer().analyze
        self._local = threading.local()
        self._remembered = lru_cache(maxsize=MAX_REMEMBERED_QUERIES)(self._ranking)

    @classmethod
    def build(cls, ids: Sequence[str], token_lists: Iterable[Sequence[str]]) -> SearchIndex:
        """Index documents; see `Postings.build` for the memory it takes.

        Args:
            ids: the id of each document, all different; equal scores are ordered by it.
            token_lists: the terms of each document (`words.analyze`), read once.

        Raises:
            ValueError: ids repeat, or are more or fewer than the token lists.
        """
        return cls(Postings.build(ids, token_lists))

    def save(self, folder: Path) -> None:
        """Write the index to a folder that does not exist yet or is empty.

        Raises:
            FileExistsError: there are files in the folder.
        """
        self._postings.save(folder)

    @classmethod
    def open(cls, folder: Path) -> SearchIndex:
        """Map a saved index into memory; processes that do so share it.

        Raises:
            DataNotFoundError: the folder or one of its files is not there.
            CorruptDataError: a file is truncated or does not belong to the others.
        """
        return cls(Postings.open(folder))

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self._postings.id_ranks)

    def top(self, query: str, k: int = 50) -> list[int]:
        """The rows of the best documents, best first; at most k.

        Raises:
            TooManyTermsError: over 1,024 different words.
        """
        return [row for row, _ in self._answer(query, k)]

    def top_scored(self, query: str, k: int = 50) -> list[tuple[int, float]]:
        """The same with the scores, not rounded (Anserini shows four decimals).

        Raises:
            TooManyTermsError: over 1,024 different words.
        """
        return list(self._answer(query, k))

    def _answer(self, query: str, k: int) -> tuple[tuple[int, float], ...]:
        if len(query) > MAX_REMEMBERED_CHARACTERS:
            return self._ranking(query, k)
        return self._remembered(query, k)

    def _ranking(self, query: str, k: int) -> tuple[tuple[int, float], ...]:
        counts = Counter(self._analyze(query))
        if len(counts) > MAX_TERMS:
            raise TooManyTermsError(
                f"the query has {len(counts)} different words; at most {MAX_TERMS} are allowed"
            )
        clauses = self._clauses(counts)
        if not clauses or k <= 0:
            return ()
        candidates, totals = self._candidates(clauses, k)
        scores = totals.astype(np.float32)
        if len(scores) > k:
            best = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            candidates, scores = candidates[best], scores[best]
        order = np.lexsort((self._postings.id_ranks[candidates], -scores))[:k]
        return tuple(zip(candidates[order].tolist(), scores[order].tolist(), strict=True))

    def _clauses(self, counts: Counter[str]) -> list[_Clause]:
        """The terms that are in the index, those that can add most first."""
        postings = self._postings
        clauses = []
        for term, count in counts.items():
            row = postings.vocabulary.find(term)
            if row >= 0:
                first, last = int(postings.starts[row]), int(postings.starts[row + 1])
                weight = np.float32(count) * postings.weights[row]
                bound = float(weight - weight / postings.top_inverses[row])
                clauses.append(_Clause(first, last, weight, bound))
        clauses.sort(key=lambda clause: -clause.bound)
        return clauses

    def _candidates(self, clauses: list[_Clause], k: int) -> tuple[Array, Array]:
        """Documents that hold all of the best k, and their scores.

        Terms are added up in falling order of what they can add at most (their bound). As soon as
        k documents score more than all further terms together can add, a document that has not been
        met cannot be among the best: further terms are then looked up only for those that can.

        Returns:
            Rows of documents, all different, and their scores as float64, of the same shape.
        """
        sums = self._take_sums()
        met: list[Array] = []
        threshold = 0.0  # k documents have at least this score
        n_left = sum(clause.last - clause.first for clause in clauses)
        slack = sum(clause.bound for clause in clauses)
        n_added = 0
        while n_added < len(clauses) and slack >= threshold:
            clause = clauses[n_added]
            n_added += 1
            documents = self._add(sums, clause)
            met.append(documents)
            n_left -= len(documents)
            slack = max(0.0, slack - clause.bound)
            if n_left > max(FEW_POSTINGS, len(documents)):
                threshold = max(threshold, _kth_largest(sums[documents], k))
        candidates = _at_least(sums, met, threshold, slack, k)
        looked_up = np.zeros(len(candidates))
        for clause in clauses[n_added:]:
            if clause.last - clause.first > 16 * len(candidates):
                looked_up += self._look_up(clause, candidates)
            else:
                met.append(self._add(sums, clause))
        totals = sums[candidates] + looked_up
        self._return_sums(sums, met)
        return candidates, totals

    def _add(self, sums: Array, clause: _Clause) -> Array:
        """Add what a term gives to its documents; returns their rows."""
        documents: Array = self._postings.documents[clause.first : clause.last]
        inverses = self._postings.inverses[clause.first : clause.last]
        # Each term's part is a float32; the parts are summed in float64, as Lucene does.
        parts = clause.weight - clause.weight / inverses
        np.add.at(sums, documents.astype(np.intp), parts.astype(np.float64))
        return documents

    def _look_up(self, clause: _Clause, candidates: Array) -> Array:
        """What a term gives to each of these documents, 0 where it is not in one."""
        documents = self._postings.documents[clause.first : clause.last]
        places = np.searchsorted(documents, candidates)
        places[places == len(documents)] = 0
        inverses = self._postings.inverses[clause.first : clause.last][places]
        parts = clause.weight - clause.weight / inverses
        return np.where(documents[places] == candidates, parts, np.float32(0))

    def _take_sums(self) -> Array:
        """This thread's array of zeros, one for each document.

        It is taken away until `_return_sums`, so that an interrupted search leaves none behind
        that is not zero.
        """
        sums: Array | None = self._local.__dict__.pop("sums", None)
        return np.zeros(len(self)) if sums is None else sums

    def _return_sums(self, sums: Array, met: list[Array]) -> None:
        if sum(map(len, met)) > len(sums) // 8:
            sums.fill(0)
        else:
            for documents in met:
                sums[documents] = 0
        self._local.sums = sums


def _kth_largest(values: Array, k: int) -> float:
    """A little less than the k-th largest value; 0 where there are fewer than k."""
    if len(values) < k:
        return 0.0
    return float(np.partition(values, len(values) - k)[len(values) - k]) * (1 - _ROUNDING)


def _at_least(sums: Array, met: list[Array], threshold: float, slack: float, k: int) -> Array:
    """The documents met whose sum can still reach the threshold, in rising order, each once."""
    if threshold == 0.0:
        threshold = _kth_largest(sums[max(met, key=len)], k)
    needed = (threshold - slack) * (1 - _ROUNDING)
    if sum(map(len, met)) > len(sums) // 8:  # quicker to go through all documents
        return np.flatnonzero(sums >= needed if needed > 0 else sums > 0)
    if needed > 0:
        met = [documents[sums[documents] >= needed] for documents in met]
    rows = np.sort(np.concatenate(met))
    return rows[np.diff(rows, prepend=-1) > 0]
