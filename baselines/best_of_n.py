"""Best-of-N: the best of N episodes per task counts (the paper's Table 2, N = 10).

    repeat N times: episode <- play(policy at a temperature above 0)
    reward <- the highest reward of the N episodes

    python baselines/best_of_n.py --smoke
    python baselines/best_of_n.py --env ETO-ALFWorld-v0 --model hf:runs/sft/sft/checkpoint

Every sample is stored in OUT/episodes.jsonl. Rerun the command to resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from common import SHOP, published

from eto_agents import Results, evaluate
from eto_agents.best_of_n import BestOfN
from eto_agents.console import Display, show
from eto_agents.markdown import markdown_table
from eto_agents.policy import load_policy


@dataclass
class Args:
    """Best-of-N: the best of N episodes per task counts.

    Attributes:
        model: Chat model of the agent: hf:PATH or openai:NAME.
        env: Environment id.
        dataset: Dataset: mini, an official name such as full, or a folder that holds the official
            files. By default (auto) the official data if downloaded, else mini.
        splits: Splits to play.
        n: Episodes per task.
        temperature: Sampling temperature.
        n_tasks: Play only the first N tasks of each split. By default all.
        out: Folder of the run.
        smoke: Run a smoke test: the random agent on 20 tasks of WebShop mini, in seconds.
    """

    model: str = "hf:runs/sft/sft/checkpoint"
    env: str = SHOP
    dataset: str = "auto"
    splits: tuple[str, ...] = ("seen", "unseen")
    n: int = 10
    temperature: float = 0.7
    n_tasks: int | None = None
    out: Path = Path("runs/best_of_n")
    smoke: bool = False


def main(args: Args) -> None:
    """Play every task N times, and print the reward of the best episode and of other selections."""
    if args.smoke:
        args = Args("", SHOP, "mini", n_tasks=20, out=args.out / "smoke")
        policy = load_policy("random")
    else:
        policy = load_policy("react", model=args.model, temperature=args.temperature)
    with Display():
        results = evaluate(
            BestOfN(policy, args.n), args.env, args.splits, out=args.out, n_tasks=args.n_tasks,
            env_args={"dataset": args.dataset},
        )  # fmt: skip
    show(table(results))
    show(published("Best-of-10"))


def table(results: Results) -> str:
    """The reward of one sample, of the majority and of the best; then pass@k and best@k."""
    samples = {name: split.samples for name, split in results.splits.items()}
    rows = []
    for label, key in (
        ("mean", "reward_mean"),
        ("majority", "reward_majority"),
        ("best", "reward_best"),
    ):
        rows.append([f"reward, {label} of N", *(_interval(s[key]) for s in samples.values())])
    n = next(iter(samples.values()))["n"]
    for label, key in (("pass", "pass_at_k"), ("best", "best_at_k")):
        for k in range(1, n + 1):
            rows.append([f"{label}@{k}", *(_number(s[key][str(k)]) for s in samples.values())])
    return markdown_table(["", *samples], rows)


def _number(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _interval(values: list[Any]) -> str:
    mean, low, high = map(_number, values)
    return mean if "–" in (low, high) else f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main(tyro.cli(Args))
