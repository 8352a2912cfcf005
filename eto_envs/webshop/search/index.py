"""The search of the shop: the exact ranking of Lucene 8.11 with Anserini, without Java.

It reproduces the order and scores of `LuceneSearcher.search` in pyserini 0.17.0, which the original
calls in `web_agent_site/engine/engine.py` (`get_top_n_product_from_keywords`): BM25 over the bag of
words of a query, with equal scores in the order of the ids. The original's special queries (`<r>`,
`<a>`, `<c>`, `<q>`) are part of the engine.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eto_envs.errors import CorruptDataError, EtoError
from eto_envs.webshop.search.postings import Array, Postings
from eto_envs.webshop.search.words import Analyzer

MAX_TERMS = 1024  # Lucene's `BooleanQuery.maxClauseCount`
MAX_REMEMBERED_QUERIES = 256
MAX_REMEMBERED_CHARACTERS = 1_000  # results of longer queries are not cached

# Fewer postings than this are simply added up: skipping some would cost more than it saves.
FEW_POSTINGS = 4_096

# Sums of the same numbers in different orders differ by less than this fraction.
_ROUNDING = 1e-6


class TooManyTermsError(EtoError, ValueError):
    """A query has more than 1,024 distinct words; the original fails with `TooManyClauses`."""


class _Clause(NamedTuple):
    """One term of a query.

    Attributes:
        first: the offset of its first posting.
        last: the offset after its last posting.
        weight: its inverse document frequency times its frequency in the query.
        bound: the most that it can add to the score of a document.
    """

    first: int
    last: int
    weight: np.float32
    bound: float


class SearchIndex:
    """An index that answers queries; it can be shared by threads and environments."""

    def __init__(self, postings: Postings) -> None:
        """Search in these postings."""
        self._postings = postings
        self._analyze = Analyzer().analyze
        self._local = threading.local()
        self._remembered = lru_cache(maxsize=MAX_REMEMBERED_QUERIES)(self._ranking)

    @classmethod
    def build(cls, ids: Sequence[str], token_lists: Iterable[Sequence[str]]) -> SearchIndex:
        """Index documents; see `Postings.build` for its memory use.

        Args:
            ids: the id of each document, all distinct; equal scores are ordered by it.
            token_lists: the terms of each document (`words.analyze`); iterated once.

        Raises:
            ValueError: there are duplicate ids, or not as many as token lists.
        """
        return cls(Postings.build(ids, token_lists))

    def save(self, folder: Path) -> None:
        """Write the index to a folder that is empty or does not exist yet.

        Raises:
            FileExistsError: the folder is not empty.
        """
        self._postings.save(folder)

    @classmethod
    def open(cls, folder: Path) -> SearchIndex:
        """Map a saved index into memory, which all processes then share.

        Raises:
            DataNotFoundError: the folder or one of its files is missing.
            CorruptDataError: a file is truncated or does not match the others.
        """
        return cls(Postings.open(folder))

    def __len__(self) -> int:
        """Number of documents."""
        return len(self._postings.id_ranks)

    def top(self, query: str, k: int = 50) -> list[int]:
        """The rows of the best documents, best first; at most k.

        Raises:
            TooManyTermsError: the query has more than 1,024 distinct words.
        """
        return [row for row, _ in self._answer(query, k)]

    def top_scored(self, query: str, k: int = 50) -> list[tuple[int, float]]:
        """Like `top`, with the scores, not rounded (Anserini shows four decimals).

        Raises:
            TooManyTermsError: the query has more than 1,024 distinct words.
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
                f"the query has {len(counts)} distinct words; at most {MAX_TERMS} are allowed"
            )
        clauses = self._clauses(counts)
        if not clauses or k <= 0:
            return ()
        candidates, totals = self._candidates(clauses, k)
        scores = totals.astype(np.float32)
        if len(scores) > k:
            # Keep all that score at least as much as the k-th: ties are broken by the id.
            best = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            candidates, scores = candidates[best], scores[best]
        order = np.lexsort((self._postings.id_ranks[candidates], -scores))[:k]
        return tuple(zip(candidates[order].tolist(), scores[order].tolist(), strict=True))

    def _clauses(self, counts: Counter[str]) -> list[_Clause]:
        """The terms of the query that are in the index, those with the highest bound first."""
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
        """Documents that include the best k, and their scores.

        Terms are processed in descending order of their bounds (as in the MaxScore algorithm). Once
        k documents score more than all remaining terms together can add, no document that has not
        been seen yet can be among the best. The remaining terms are then only looked up for the
        documents that can still reach the threshold.

        Returns:
            Rows of distinct documents, int64 of shape (n,), and their scores, float64 of shape
            (n,).
        """
        sums = self._take_sums()
        met: list[Array] = []  # for each processed term, the rows of its documents
        threshold = 0.0  # at least k documents have this score
        n_left = sum(clause.last - clause.first for clause in clauses)  # postings not yet processed
        slack = sum(clause.bound for clause in clauses)  # the most that remaining terms can add
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
        """Add the contributions of a term to `sums`; returns the rows of its documents."""
        documents: Array = self._postings.documents[clause.first : clause.last]
        inverses = self._postings.inverses[clause.first : clause.last]
        # As in Lucene, contributions are computed in float32 and summed in float64.
        parts = clause.weight - clause.weight / inverses
        try:
            np.add.at(sums, documents.astype(np.intp), parts.astype(np.float64))
        except IndexError as error:  # only a small index is checked when it is opened
            raise CorruptDataError(f"the search index is damaged: {error}") from error
        return documents

    def _look_up(self, clause: _Clause, candidates: Array) -> Array:
        """The contribution of a term to each candidate; 0 if it does not occur in it.

        Args:
            clause: the term.
            candidates: rows of documents, of shape (n,).

        Returns:
            float32 of shape (n,).
        """
        documents = self._postings.documents[clause.first : clause.last]
        places = np.searchsorted(documents, candidates)
        places[places == len(documents)] = 0  # any valid index: the comparison below rules it out
        inverses = self._postings.inverses[clause.first : clause.last][places]
        parts = clause.weight - clause.weight / inverses
        return np.where(documents[places] == candidates, parts, np.float32(0))

    def _take_sums(self) -> Array:
        """This thread's array of zeros, float64 of shape (n_documents,).

        It is removed from the thread until `_return_sums`, so that an interrupted search does not
        leave an array behind that is not zero.
        """
        sums: Array | None = self._local.__dict__.pop("sums", None)
        return np.zeros(len(self)) if sums is None else sums

    def _return_sums(self, sums: Array, met: list[Array]) -> None:
        """Set the array to zero again and keep it for the thread's next search."""
        if sum(map(len, met)) > len(sums) // 8:
            sums.fill(0)
        else:
            for documents in met:
                sums[documents] = 0
        self._local.sums = sums


def _kth_largest(values: Array, k: int) -> float:
    """Slightly less than the k-th largest value; 0 if there are fewer than k values."""
    if len(values) < k:
        return 0.0
    return float(np.partition(values, len(values) - k)[len(values) - k]) * (1 - _ROUNDING)


def _at_least(sums: Array, met: list[Array], threshold: float, slack: float, k: int) -> Array:
    """The documents whose score can still reach the threshold, in ascending order.

    Args:
        sums: float64 of shape (n_documents,), the scores so far.
        met: for each processed term, the rows of its documents.
        threshold: at least k documents have this score; 0 if it has not been computed.
        slack: the most that the remaining terms can add.
        k: the number of results.
    """
    if threshold == 0.0:
        threshold = _kth_largest(sums[max(met, key=len)], k)
    needed = (threshold - slack) * (1 - _ROUNDING)
    if sum(map(len, met)) > len(sums) // 8:  # then it is faster to go through all documents
        return np.flatnonzero(sums >= needed if needed > 0 else sums > 0)
    if needed > 0:
        met = [documents[sums[documents] >= needed] for documents in met]
    rows = np.sort(np.concatenate(met))
    return rows[np.diff(rows, prepend=-1) > 0]  # without duplicates
