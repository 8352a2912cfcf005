"""Shared by the methods' scripts: the start of smoke tests, evaluation rows, published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from eto_agents.collect import collect
from eto_agents.evaluation.harness import evaluate
from eto_agents.evaluation.published import load_published
from eto_agents.reproduce.tables import estimate_text
from eto_agents.settings import SFT
from eto_agents.trajectory import Trajectory

SHOP: Final = "ETO-WebShop-v0"
TINY: Final = "tiny:nano"
SMOKE_PLAY: Final[Mapping[str, Any]] = {
    **{"env": SHOP, "dataset": "mini", "n_tasks": 8, "n_envs": 8, "max_new_tokens": 16},
}
"""Settings of methods that play, for smoke tests."""
SMOKE_SFT: Final = SFT(
    epochs=4,
    batch_size=4,
    micro_batch_size=4,
    learning_rate=3e-3,
    vocab_size=800,
    log_every=2,
    device="cpu",
)
"""Settings of SFT, for smoke tests."""


class Start(NamedTuple):
    """The inputs of the methods that follow SFT.

    Attributes:
        experts: trajectories of an expert.
        policy: checkpoint of a model that SFT trained on them.
    """

    experts: list[Trajectory]
    policy: Path


def smoke_start(out: Path) -> Start:
    """Let the expert play 12 tasks of WebShop mini, and train the smallest model on them."""
    from eto_agents.training.sft import sft  # imported here: other scripts need no PyTorch

    args = {"dataset": "mini"}
    played = collect(
        "expert", SHOP, out=out / "experts", thoughts="brief", n_tasks=12, env_args=args
    )
    return Start(played.selected, sft(TINY, played.selected, SMOKE_SFT, out=out / "sft").checkpoint)


def score(
    policy: Any,
    env: str,
    splits: Sequence[str],
    out: Path,
    *,
    dataset: str | None = None,
    n_tasks: int | None = None,
) -> str:
    """Evaluate a policy, and format its mean rewards x 100, as in ``seen 63.1 [60.0, 66.2]``."""
    env_args = {} if dataset is None else {"dataset": dataset}
    results = evaluate(policy, env, splits, out=out, env_args=env_args, n_tasks=n_tasks)
    return ", ".join(
        f"{name} {estimate_text(split.reward)}" for name, split in results.splits.items()
    )


def published(method: str, model: str = "Llama-2-7B-Chat") -> str:
    """A line with the paper's rewards for a method, by column."""
    key = (method, "eto", "reward", model)
    for row in load_published().rows:
        if (row.method, row.source, row.metric, row.model) == key:
            return f"published, {method} of {model}: {row.values}"
    return f"published, {method} of {model}: not in the paper"
