"""A model as it is, prompted with one example: the upper rows of the paper's Table 2.

    python baselines/prompted.py --smoke
    python baselines/prompted.py --env ETO-ALFWorld-v0 --model openai:gpt-4o-mini
    python baselines/prompted.py --env ETO-WebShop-v0 --model hf:meta-llama/Llama-2-7b-chat-hf

The same command goes on after a kill.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from eto_agents import evaluate
from eto_agents.cli.evaluation import AgentFlags, given
from eto_agents.console import Display
from eto_agents.reproduce.tables import Entry, build_table, markdown, published_rows

PUBLISHED = (
    ("ReAct prompting", "GPT-4"),
    ("ReAct prompting", "GPT-3.5-Turbo"),
    ("untuned", "Llama-2-7B-Chat"),
)


def main(
    agent: Annotated[AgentFlags, tyro.conf.arg(name="")],
    env: str = "ETO-WebShop-v0",
    splits: tuple[str, ...] = ("seen", "unseen"),
    out: Path = Path("runs/prompted"),
    n_tasks: int | None = None,
    dataset: str | None = None,
    quiet: bool = False,
    smoke: bool = False,
) -> None:
    """Play task sets with a model and print its row beside the published ones.

    Args:
        agent: which agent plays.
        env: environment id.
        splits: the task sets to play.
        out: folder of the run.
        n_tasks: only the first so many tasks of each split.
        dataset: mini, an official name, or a folder.
        quiet: no progress.
        smoke: the random agent, which needs no model, on 20 tasks of the embedded shop.
    """
    if smoke:
        agent = replace(agent, policy="random", model=None, prompts=None, policy_args=())
        env, dataset, n_tasks, out = "ETO-WebShop-v0", "mini", 20, out / "smoke"
    with Display(quiet):
        results = evaluate(
            agent.load(),
            env,
            splits,
            out=out,
            n_tasks=n_tasks,
            env_args=given(dataset=dataset),
            action_timeout_s=agent.action_timeout,
        )
    rows = [row for method, model in PUBLISHED for row in published_rows((method,), model)]
    print(markdown(build_table([Entry(results.policy, [(0, out)])]), rows))


if __name__ == "__main__":
    tyro.cli(main)
