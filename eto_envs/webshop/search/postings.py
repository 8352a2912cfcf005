"""The inverted index: the documents of each term, how they are counted, and the files.

The numbers are those of Lucene 8.11's BM25 (`BM25Similarity`, `SmallFloat`) with the parameters of
Anserini in pyserini 0.17.0 (k1 = 0.9, b = 0.4), so that scores are identical to the last bit. Not
here: ranking (`index`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eto_envs.errors import CorruptDataError
from eto_envs.files import read_json_object
from eto_envs.webshop.data.jsonfiles import load_array
from eto_envs.webshop.search.vocabulary import Vocabulary

FORMAT = 1
K1 = np.float32(0.9)
B = np.float32(0.4)
MAX_CHECKED = 1 << 23  # postings up to which an index is read when it is opened, to check them
_LARGEST = float(np.finfo(np.float32).max)
_REBUILD = "Rebuild the index."
TOKENS_PER_BLOCK = 2_000_000  # a token takes 16 bytes while its block is sorted

Array = npt.NDArray[Any]

_DTYPES = {
    "documents": "<i4",
    "inverses": "<f4",
    "starts": "<i8",
    "weights": "<f4",
    "top_inverses": "<f4",
    "id_ranks": "<i4",
    "term_bytes": "|u1",
    "term_starts": "<i8",
}


@dataclass(frozen=True)
class Postings:
    """The arrays of an index; read-only if they are mapped from files.

    Term t occurs in the documents `documents[starts[t]:starts[t + 1]]`, in ascending order.

    Attributes:
        vocabulary: the terms; the number of a term is its position in the vocabulary.
        documents: int32 of shape (n_postings,), rows of documents.
        inverses: float32 of shape (n_postings,): 1 + tf / (k1 * length norm). For a term of weight
            w, Lucene adds `w - w / inverse` to the score of the document.
        starts: int64 of shape (n_terms + 1,), offsets into `documents` and `inverses`.
        weights: float32 of shape (n_terms,), the inverse document frequencies.
        top_inverses: float32 of shape (n_terms,), the maximum of each term's inverses.
        id_ranks: int32 of shape (n_documents,), the rank of each document's id in sorted order.
    """

    vocabulary: Vocabulary
    documents: Array
    inverses: Array
    starts: Array
    weights: Array
    top_inverses: Array
    id_ranks: Array

    @classmethod
    def build(cls, ids: Sequence[str], token_lists: Iterable[Sequence[str]]) -> Postings:
        """Build the index of some documents.

        Memory use grows with the number of distinct terms (about 150 bytes each) and of postings,
        that is, distinct terms summed over the documents (13 bytes each, of which 8 remain). The
        tokens themselves are processed in blocks of 2 million.

        Args:
            ids: the id of each document, all distinct; equal scores are ordered by it.
            token_lists: the terms of each document, in the same order; iterated once.

        Raises:
            ValueError: there are duplicate ids, or not as many as token lists.
        """
        if len(set(ids)) != len(ids):
            raise ValueError("two documents have the same id")
        rows_of_terms: dict[str, int] = {}
        lengths = array("q")
        blocks = [_Block(*block) for block in _flat_blocks(token_lists, rows_of_terms, lengths)]
        if len(lengths) != len(ids):
            raise ValueError(f"{len(ids)} ids, but {len(lengths)} lists of tokens")
        # Terms were numbered as they came; `new_rows[old number]` is a term's number when sorted.
        terms = sorted(rows_of_terms)
        order = np.fromiter((rows_of_terms[term] for term in terms), np.int64, len(terms))
        del rows_of_terms
        new_rows = np.empty_like(order)
        new_rows[order] = np.arange(len(order))

        # `starts[t + 1]` first counts the postings of term t; the running sum makes it an offset.
        starts = np.zeros(len(terms) + 1, np.int64)
        for block in blocks:
            starts[new_rows[block.terms] + 1] += block.sizes
        document_frequencies = starts[1:].copy()
        np.cumsum(starts, out=starts)
        documents, inverses = _merge(blocks, new_rows, starts, np.frombuffer(lengths, np.int64))
        id_ranks = np.empty(len(ids), np.int32)
        id_ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
        n_filled = int(np.count_nonzero(np.frombuffer(lengths, np.int64)))
        return cls(
            vocabulary=Vocabulary.build(terms),
            documents=documents,
            inverses=inverses,
            starts=starts,
            weights=_inverse_document_frequencies(document_frequencies, n_filled),
            top_inverses=np.maximum.reduceat(inverses, starts[:-1]) if terms else inverses,
            id_ranks=id_ranks,
        )

    def save(self, folder: Path) -> None:
        """Write the index atomically to a folder that is empty or does not exist yet.

        Raises:
            FileExistsError: the folder is not empty.
        """
        folder = Path(folder)
        if folder.exists():
            if any(folder.iterdir()):
                raise FileExistsError(f"{folder} is not empty; remove it or choose another folder")
            folder.rmdir()
        arrays = self._arrays()
        about = {"format": FORMAT, "shapes": {name: len(a) for name, a in arrays.items()}}
        part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, values in arrays.items():
            np.save(part / f"{name}.npy", values.astype(_DTYPES[name], copy=False))
        (part / "index.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder)

    @classmethod
    def open(cls, folder: Path) -> Postings:
        """Map the files of a saved index into memory, which all processes then share.

        Raises:
            DataNotFoundError: the folder or one of its files is missing.
            CorruptDataError: a file is truncated or does not match the others.
        """
        folder = Path(folder)
        shapes = _read_shapes(folder / "index.json")
        arrays = {name: _open_array(folder / f"{name}.npy", shapes) for name in _DTYPES}
        postings = cls(
            Vocabulary(arrays.pop("term_bytes"), arrays.pop("term_starts")),
            **arrays,
        )
        postings._check(folder)
        return postings

    def _arrays(self) -> dict[str, Array]:
        arrays = {name: getattr(self, name) for name in _DTYPES if hasattr(self, name)}
        arrays["term_bytes"] = self.vocabulary.text
        arrays["term_starts"] = self.vocabulary.starts
        return arrays

    def _check(self, folder: Path) -> None:
        n_terms, n_documents = len(self.vocabulary), len(self.id_ranks)
        fits = (
            len(self.starts) == n_terms + 1
            and len(self.weights) == len(self.top_inverses) == n_terms
            and len(self.documents) == len(self.inverses)
            and _are_offsets(self.starts, len(self.documents))
            and _are_offsets(self.vocabulary.starts, len(self.vocabulary.text))
            and _are_within(self.id_ranks, 0, n_documents - 1)
            and _are_within(self.weights, 0, _LARGEST)
            and _are_within(self.top_inverses, 1, _LARGEST)
        )
        # Reading all postings of a large index from the disk would take long.
        if fits and len(self.documents) <= MAX_CHECKED:
            fits = _are_within(self.documents, 0, n_documents - 1)
            fits = fits and _are_within(self.inverses, 1, _LARGEST)
        if not fits:
            raise CorruptDataError(f"the files in {folder} do not match. {_REBUILD}")


class _Block:
    """The postings of some consecutive documents, sorted by term, then document.

    Attributes:
        documents: int32 of shape (n_postings,), rows of documents.
        counts: unsigned integers of shape (n_postings,), the term frequencies.
        terms: int32 of shape (n_terms in this block,), the numbers of the terms.
        sizes: int32 of the same shape, the number of postings of each term.
    """

    def __init__(self, tokens: Array, rows: Array) -> None:
        """Count equal pairs of term and document.

        Args:
            tokens: integers of shape (n_tokens,), the term of each token.
            rows: integers of shape (n_tokens,), the document of each token.
        """
        # One int64 for each token, term in the upper half and document in the lower: sorting brings
        # equal pairs together, and `edges` are the positions at which a new pair begins.
        pairs = tokens.astype(np.int64) << 32 | rows
        pairs.sort()
        edges = np.flatnonzero(np.diff(pairs, prepend=-1))
        counts = np.diff(edges, append=len(pairs))
        self.counts = counts.astype(np.min_scalar_type(int(counts.max(initial=0))))
        pairs = pairs[edges]
        self.documents = (pairs & 0xFFFFFFFF).astype(np.int32)
        # In the same way, `firsts` are the positions at which a new term begins.
        terms = pairs >> 32
        firsts = np.flatnonzero(np.diff(terms, prepend=-1))
        self.terms = terms[firsts].astype(np.int32)
        self.sizes = np.diff(firsts, append=len(terms)).astype(np.int32)


def _flat_blocks(
    token_lists: Iterable[Sequence[str]], rows_of_terms: dict[str, int], lengths: array[int]
) -> Iterator[tuple[Array, Array]]:
    """The tokens in blocks of about `TOKENS_PER_BLOCK`, as arrays of terms and of documents.

    Adds every term to `rows_of_terms`, numbered as they come, and every document's number of tokens
    to `lengths`.
    """
    tokens = array("i")
    first = 0

    def block() -> tuple[Array, Array]:
        rows = np.arange(first, len(lengths))
        return np.frombuffer(tokens, np.int32), np.repeat(rows, lengths[first:])

    for terms in token_lists:
        tokens.extend([rows_of_terms.setdefault(term, len(rows_of_terms)) for term in terms])
        lengths.append(len(terms))
        if len(tokens) >= TOKENS_PER_BLOCK:
            yield block()
            tokens = array("i")
            first = len(lengths)
    yield block()


def _merge(
    blocks: list[_Block], new_rows: Array, starts: Array, lengths: Array
) -> tuple[Array, Array]:
    """The documents and inverses of all blocks, by term; empties the list to save memory.

    Args:
        blocks: the blocks, in the order of their documents.
        new_rows: int64 of shape (n_terms,), the final number of each term.
        starts: int64 of shape (n_terms + 1,), where the postings of each term begin.
        lengths: int64 of shape (n_documents,), the number of tokens of each document.
    """
    documents = np.empty(starts[-1], np.int32)
    inverses = np.empty(starts[-1], np.float32)
    norms = _norm_inverses(lengths)
    filled = starts[:-1].copy()  # where the next posting of each term goes
    blocks.reverse()
    while blocks:
        block = blocks.pop()
        rows = new_rows[block.terms]
        # Posting i of a block belongs to a term whose first posting in the block is at `first`; it
        # goes to filled[term] + (i - first). `offsets` are filled[term] - first, for each term.
        offsets = filled[rows] - (np.cumsum(block.sizes, dtype=np.int64) - block.sizes)
        places = np.repeat(offsets, block.sizes) + np.arange(len(block.documents))
        filled[rows] += block.sizes
        documents[places] = block.documents
        frequencies = block.counts.astype(np.float32)
        inverses[places] = np.float32(1) + frequencies * norms[block.documents]
    return documents, inverses


def _inverse_document_frequencies(document_frequencies: Array, n_documents: int) -> Array:
    """Lucene's idf: log(1 + (N - n + 0.5) / (n + 0.5)) for N non-empty documents.

    Computed in double precision and then rounded, as in Lucene.
    """
    weights = [
        math.log(1 + (n_documents - n + 0.5) / (n + 0.5)) for n in document_frequencies.tolist()
    ]
    return np.array(weights, np.float64).astype(np.float32)


def _norm_inverses(lengths: Array) -> Array:
    """1 / (k1 * (1 - b + b * length / mean length)) for each document, as float32.

    Like Lucene, this uses the length as stored in one byte, and float32 for every operation.
    """
    n_filled = int(np.count_nonzero(lengths))
    mean = np.float32(int(lengths.sum()) / max(1, n_filled))
    # The norm by length, for all lengths up to the maximum; then one look-up for each document.
    longest = int(lengths.max(initial=0))
    stored = np.array([_stored_length(n) for n in range(longest + 1)], np.float32)
    if mean == 0:
        return stored[lengths]
    norms: Array = np.float32(1) / (K1 * ((np.float32(1) - B) + B * stored / mean))
    return norms[lengths]


def _stored_length(length: int) -> int:
    """A length as Lucene stores it in one byte (`SmallFloat.intToByte4`).

    Lengths below 40 are exact; for larger ones, the excess over 24 keeps four significant bits.
    """
    excess = length - 24  # "NUM_FREE_VALUES = 255 - longToInt4(Integer.MAX_VALUE)"
    shift = max(0, excess.bit_length() - 4) if excess > 0 else 0
    return length if shift == 0 else 24 + (excess >> shift << shift)


def _are_offsets(values: Array, last: int) -> bool:
    """Whether values rise from 0 to `last`."""
    return bool(
        len(values) and values[0] == 0 and values[-1] == last and (np.diff(values) >= 0).all()
    )


def _are_within(values: Array, low: float, high: float) -> bool:
    """Whether all values are in [low, high], which NaN is not."""
    return not len(values) or bool(low <= values.min() and values.max() <= high)


def _read_shapes(path: Path) -> Mapping[str, int]:
    about = read_json_object(path, _REBUILD)
    if about.get("format") != FORMAT:
        raise CorruptDataError(f"{path} is not of format {FORMAT}. {_REBUILD}")
    shapes = about.get("shapes")
    if not isinstance(shapes, dict) or not {*map(type, shapes.values())} <= {int}:
        raise CorruptDataError(f"{path} has no shapes. {_REBUILD}")
    return shapes


def _open_array(path: Path, shapes: Mapping[str, int]) -> Array:
    return load_array(path, _DTYPES[path.stem], shapes.get(path.stem, 0), hint=_REBUILD)
