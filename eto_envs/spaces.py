"""`TextSpace`: the space of all Unicode strings up to a length.

`gymnasium.spaces.Text` has a fixed character set and requires at least one character, so it rejects
ordinary prose ("é", the empty string). This subclass works wherever Gymnasium dispatches on the
type (`batch_space`, `isinstance`) and only redefines membership and sampling.
"""

from __future__ import annotations

import string
from typing import Any, NoReturn

from gymnasium.spaces import Text
from gymnasium.vector.utils import create_shared_memory

_PRINTABLE = " " + string.ascii_letters + string.digits + string.punctuation


class TextSpace(Text):
    """Any `str` of at most `max_length` characters.

    `sample` draws printable ASCII. Two spaces are equal if their maximum lengths are.
    """

    def __init__(self, max_length: int, *, seed: int | None = None) -> None:
        """Make a space of strings of 0 to `max_length` characters."""
        super().__init__(max_length, min_length=0, charset=_PRINTABLE, seed=seed)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a `str` of at most `max_length` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random printable string of 1 to 40 characters (masks work as in `Text`)."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(1, min(40, self.max_length) + 1)), None)
        return super().sample(mask, probability)

    def __eq__(self, other: object) -> bool:
        """Whether the maximum lengths are equal."""
        return isinstance(other, TextSpace) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]  # as every Gymnasium space with __eq__

    def __repr__(self) -> str:
        """The maximum length."""
        return f"TextSpace({self.max_length})"


@create_shared_memory.register(TextSpace)
def _refuse_shared_memory(space: TextSpace, *args: Any, **kwargs: Any) -> NoReturn:
    # Gymnasium's shared memory for Text returns blank text (measured on 1.4.0).
    raise ValueError(
        "text observations cannot be passed through shared memory; "
        "use AsyncVectorEnv(..., shared_memory=False), or gym.make_vec for the in-process one"
    )
