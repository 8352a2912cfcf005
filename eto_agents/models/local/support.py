"""Which architectures can be read in lockstep: by what they say, and by trying.

A row's numbers must not depend on the rows beside it, and what was read in pieces must be what
would have been read at once. A model whose config tells otherwise is refused, and every other one
shows it on a few tokens before it is used.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from eto_agents.models.local.cached_runner import Attention, Lockstep
from eto_agents.models.local.prefix_cache import MIN_SHARED_TOKENS
from eto_agents.models.local.runner import Plain, Reader
from eto_envs.errors import EtoError

_KINDS: Final = frozenset({"full_attention", "sliding_attention"})
_MAX_WINDOW_TRIED: Final = 64
# Of the largest logit: what rounding may do to half-precision numbers, and to others.
_TOLERANCES: Final = {torch.float16: 0.05, torch.bfloat16: 0.1}
_TOLERANCE: Final = 1e-3


class UnsupportedModelError(EtoError, ValueError):
    """An architecture whose keys and values cannot be kept in rows."""


def attention_of(model: Any) -> Attention:
    """How far the model's layers look back.

    Raises:
        UnsupportedModelError: some layer does something else than attend to what came before.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if {"dynamic", "longrope"} & {str(value) for value in rope.values()}:
        raise _unsupported(model, "its position encoding depends on the longest text of a batch")
    kinds = frozenset(getattr(config, "layer_types", None) or ())
    if not kinds <= _KINDS:
        raise _unsupported(model, f"it has layers of kind {', '.join(sorted(kinds - _KINDS))}")
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return Attention(kinds, None)
    if kinds and "sliding_attention" not in kinds:
        return Attention(kinds, None)
    return Attention(kinds, int(window))


def check_lockstep(model: Any, attention: Attention) -> None:
    """Read two texts in pieces, side by side, and compare with reading each at once.

    Raises:
        UnsupportedModelError: it is not the same.
    """
    try:
        difference = _difference(model, attention)
    # What models raise whose layers or arguments are of another form than is asked for.
    except (TypeError, AttributeError, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise _unsupported(model, f"{type(error).__name__}: {error}") from error
    tolerance = _TOLERANCES.get(model.dtype, _TOLERANCE)
    if not difference <= tolerance:
        raise _unsupported(model, f"logits differ by {difference:.2g} of the largest")


def _difference(model: Any, attention: Attention) -> float:
    """The largest difference of logits, as a share of the largest logit."""
    window = attention.window or 0
    n_own = 7 if window > _MAX_WINDOW_TRIED else 7 + window
    vocabulary = int(model.config.get_text_config().vocab_size)
    # Enough in common to be read once, then texts of unequal length.
    common = [(7 * i + 3) % vocabulary for i in range(MIN_SHARED_TOKENS + 4)]
    texts = [
        [*common, *((step * i + 5) % vocabulary for i in range(n))]
        for step, n in ((11, n_own), (13, 5))
    ]
    readers: tuple[Reader, ...] = (Lockstep(model, attention, 1 << 40), Plain(model))
    read: list[list[Tensor]] = [[], []]
    for reader, logits in zip(readers, read, strict=True):
        for piece in (2, 1):  # the second time, each row continues what it holds
            prompts = [text[: len(text) - piece] for text in texts]
            numbers = [number for number, _ in reader.begin(prompts, 1)]
            tokens = torch.tensor([prompts[number][-1] for number in numbers])
            rows = reader.step(tokens, torch.ones(2, dtype=torch.bool))
            logits.append(rows[torch.tensor(numbers, device=rows.device).argsort()])
            reader.end(prompts)
    largest = max(float(rows.float().abs().max()) for rows in read[1])
    pairs = zip(*read, strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs) / largest


def _unsupported(model: Any, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{model.config.model_type} cannot be read in lockstep ({reason}): give with_cache=False, "
        "which is slow but right for every architecture"
    )
