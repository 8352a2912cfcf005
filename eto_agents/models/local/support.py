"""Which architectures work with the KV cache: by their config, and by a trial.

A row's logits must not depend on the other rows, and a sequence computed in parts must give the
logits that it gives at once. Models whose config rules that out are refused, and every other one is
tried on a few tokens before it is used.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from eto_agents.models.local.cached_runner import AttentionPattern, CachedRunner
from eto_agents.models.local.prefix_cache import MIN_SHARED_TOKENS
from eto_agents.models.local.runner import Runner, UncachedRunner
from eto_envs.errors import EtoError

_LAYER_KINDS: Final = frozenset({"full_attention", "sliding_attention"})
_MAX_WINDOW_TRIED: Final = 64
# The largest difference that rounding explains, as a share of the largest logit.
_TOLERANCES: Final = {torch.float16: 0.05, torch.bfloat16: 0.1}
_TOLERANCE: Final = 1e-3  # of other data types


class UnsupportedModelError(EtoError, ValueError):
    """An architecture for which the KV cache does not work."""


def attention_pattern(model: Any) -> AttentionPattern:
    """Which earlier tokens the model's layers attend to.

    Raises:
        UnsupportedModelError: a layer does something else.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if {"dynamic", "longrope"} & {str(value) for value in rope.values()}:
        raise _unsupported(model, "its position encoding depends on the longest text of a batch")
    kinds = frozenset(getattr(config, "layer_types", None) or ())
    if not kinds <= _LAYER_KINDS:
        other = ", ".join(sorted(kinds - _LAYER_KINDS))
        raise _unsupported(model, f"it has layers of kind {other}")
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return AttentionPattern(kinds, None)
    if kinds and "sliding_attention" not in kinds:
        return AttentionPattern(kinds, None)
    return AttentionPattern(kinds, int(window))


def check_cached_logits(model: Any, pattern: AttentionPattern) -> None:
    """Compute two sequences in parts and in one batch, and compare with each one at once.

    Raises:
        UnsupportedModelError: the logits differ.
    """
    try:
        difference = _difference(model, pattern)
    # What models raise whose layers or arguments are not of the usual form.
    except (TypeError, AttributeError, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise _unsupported(model, f"{type(error).__name__}: {error}") from error
    tolerance = _TOLERANCES.get(model.dtype, _TOLERANCE)
    if not difference <= tolerance:  # NaN is refused, too
        raise _unsupported(model, f"logits differ by {difference:.2g} of the largest")


def _difference(model: Any, pattern: AttentionPattern) -> float:
    """The largest difference between logits, as a share of the largest logit."""
    window = pattern.window or 0
    n_own = 7 if window > _MAX_WINDOW_TRIED else 7 + window
    vocab_size = int(model.config.get_text_config().vocab_size)
    # Two sequences of unequal length with a shared prefix that is long enough to be copied.
    shared = [(7 * i + 3) % vocab_size for i in range(MIN_SHARED_TOKENS + 4)]
    sequences = [
        [*shared, *((step * i + 5) % vocab_size for i in range(n))]
        for step, n in ((11, n_own), (13, 5))
    ]
    runners: tuple[Runner, ...] = (CachedRunner(model, pattern, 1 << 40), UncachedRunner(model))
    logits: list[list[Tensor]] = [[], []]  # by runner and batch, each (2, vocabulary)
    for runner, own_logits in zip(runners, logits, strict=True):
        # Two batches: without the last two tokens, and then one token more, from the cache.
        for n_left in (2, 1):
            prompts = [sequence[: len(sequence) - n_left] for sequence in sequences]
            indices = [row.prompt for row in runner.prefill(prompts, 1)]
            tokens = torch.tensor([prompts[index][-1] for index in indices])
            rows = runner.decode(tokens, torch.ones(2, dtype=torch.bool))
            by_index = torch.tensor(indices, device=rows.device).argsort()
            own_logits.append(rows[by_index])
            runner.finish(prompts)
    largest = max(float(rows.float().abs().max()) for rows in logits[1])
    pairs = zip(*logits, strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs) / largest


def _unsupported(model: Any, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the KV cache does not work for {model.config.model_type} ({reason}): give "
        "with_cache=False, which is slow but right for every architecture"
    )
