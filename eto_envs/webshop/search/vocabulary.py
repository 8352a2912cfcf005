"""A sorted list of words in two arrays, which can be memory-mapped instead of being read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_REMEMBERED = 65_536


class Vocabulary:
    """Words in the order of their UTF-8 bytes, looked up by binary search."""

    def __init__(self, text: npt.NDArray[Any], starts: npt.NDArray[Any]) -> None:
        """Use existing arrays.

        Args:
            text: uint8 of shape (n_bytes,), the concatenated UTF-8 bytes of all words.
            starts: int64 of shape (n_words + 1,): word `i` is `text[starts[i]:starts[i + 1]]`.
        """
        self.text = text
        self.starts = starts
        # Slicing and indexing memoryviews is faster than slicing and indexing arrays.
        self._bytes = text.data
        self._edges = starts.data
        self._found: dict[str, int] = {}

    @classmethod
    def build(cls, words: Sequence[str]) -> Vocabulary:
        """Build the arrays from words that are sorted and distinct."""
        encoded = [word.encode("utf-8") for word in words]
        starts = np.zeros(len(words) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(words)), out=starts[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), starts)

    def __len__(self) -> int:
        """Number of words."""
        return len(self.starts) - 1

    def find(self, word: str) -> int:
        """The position of a word, or -1 if it is not in the list."""
        row = self._found.get(word)
        if row is None:
            row = self._search(word.encode("utf-8", "surrogatepass"))
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            self._found[word] = row
        return row

    def _search(self, word: bytes) -> int:
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            at_middle = bytes(self._bytes[self._edges[middle] : self._edges[middle + 1]])
            if at_middle == word:
                return middle
            if at_middle < word:
                low = middle + 1
            else:
                high = middle
        return -1
