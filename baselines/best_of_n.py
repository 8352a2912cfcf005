"""Best-of-N: how much choosing the best of N tries lifts an agent (the paper's table 2, N = 10).

    python baselines/best_of_n.py --smoke
    python baselines/best_of_n.py --env ETO-ALFWorld-v0 --model hf:runs/sft/checkpoint \
        --policy-args temperature=0.7 --out runs/best_of_n/alfworld

Every sample is kept in OUT/episodes.jsonl; the same command goes on after a kill.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents import Results, evaluate
from eto_agents.cli.evaluation import AgentFlags, given
from eto_agents.console import Display

N = 10


def main(  # noqa: PLR0913 (the flags of the script)
    agent: Annotated[AgentFlags, tyro.conf.arg(name="")],
    env: str = "ETO-WebShop-v0",
    splits: tuple[str, ...] = ("seen", "unseen"),
    out: Path = Path("runs/best_of_n"),
    seeds: tuple[int, ...] = (0,),
    batch_size: int = 32,
    n_tasks: int | None = None,
    dataset: str | None = None,
    quiet: bool = False,
    smoke: bool = False,
) -> None:
    """Play every task N times (10, or --best-of) and print what choosing among them gives.

    Args:
        agent: which agent plays.
        env: environment id.
        splits: the task sets to play.
        out: folder of the run.
        seeds: N samples of every task for each.
        batch_size: episodes that run at once.
        n_tasks: only the first so many tasks of each split.
        dataset: mini, an official name, or a folder.
        quiet: no progress.
        smoke: the random agent on the first 20 tasks of the embedded shop, in seconds.
    """
    agent = replace(agent, best_of=agent.best_of or N)
    if smoke:
        agent = replace(agent, policy="random", model=None, prompts=None, policy_args=())
        env, dataset, n_tasks, splits = "ETO-WebShop-v0", "mini", 20, ("seen", "unseen")
        out = out / "smoke"
    with Display(quiet):
        results = evaluate(
            agent.load(),
            env,
            splits,
            seeds=seeds,
            out=out,
            batch_size=batch_size,
            n_tasks=n_tasks,
            env_args=given(dataset=dataset),
            action_timeout_s=agent.action_timeout,
        )
    print(f"{results.policy} on {env} ({results.dataset}), written to {out}\n")
    print(table(results))


def table(results: Results) -> str:
    """Figures by split as Markdown: one sample, majority, best of N, then pass@k and best@k."""
    samples = {name: split.samples for name, split in results.splits.items()}
    n = next(iter(samples.values()))["n"]
    rows = [["", *samples], ["---"] * (len(samples) + 1)]
    for label, key in (
        ("reward, mean of N", "reward_mean"),
        ("reward, majority", "reward_majority"),
        ("reward, best of N", "reward_best"),
    ):
        rows.append([label, *(_interval(figures[key]) for figures in samples.values())])
    for label, key in (("pass", "pass_at_k"), ("best", "best_at_k")):
        for k in range(1, n + 1):
            values = (figures[key][str(k)] for figures in samples.values())
            rows.append([f"{label}@{k}", *("–" if v is None else f"{v:.3f}" for v in values)])
    distinct = (figures["distinct_outcomes"] for figures in samples.values())
    rows.append(["outcomes a task", *("–" if v is None else f"{v:.1f}" for v in distinct)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _interval(values: list[float | None]) -> str:
    mean, low, high = values
    if mean is None or mean != mean:
        return "–"
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    tyro.cli(main)
