"""Putting sequences of like length together, so that little padding goes through a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Positions in batches, short sequences first.

    Args:
        lengths: tokens of each sequence.
        max_tokens: the most tokens of a batch, padding included; a sequence that is longer by
            itself is a batch of its own.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[position] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
