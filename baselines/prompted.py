"""Prompting a model without training, with one example: the upper rows of the paper's Table 2.

    python baselines/prompted.py --smoke
    python baselines/prompted.py --env ETO-ALFWorld-v0 --model openai:gpt-4o-mini
    python baselines/prompted.py --env ETO-WebShop-v0 --model hf:meta-llama/Llama-2-7b-chat-hf

Rerun the command to resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from common import SHOP, published, score

from eto_agents.console import Display, show
from eto_agents.policy import load_policy


@dataclass
class Args:
    """Prompt a model without training.

    Attributes:
        model: Chat model of the agent: hf:PATH or openai:NAME.
        prompts: Prompts: own, published, brief, or a TOML file.
        env: Environment id.
        dataset: Dataset: mini, an official name such as full, or a folder that holds the official
            files. By default (auto) the official data if downloaded, else mini.
        splits: Splits to play.
        n_tasks: Play only the first N tasks of each split. By default all.
        out: Folder of the run.
        smoke: Run a smoke test: the random agent, which needs no model, on 20 tasks of WebShop
            mini.
    """

    model: str = "openai:gpt-4o-mini"
    prompts: str = "published"
    env: str = SHOP
    dataset: str = "auto"
    splits: tuple[str, ...] = ("seen", "unseen")
    n_tasks: int | None = None
    out: Path = Path("runs/prompted")
    smoke: bool = False


def main(args: Args) -> None:
    """Evaluate the model, and print its row and the published ones."""
    if args.smoke:
        args = Args("random", "", SHOP, "mini", n_tasks=20, out=args.out / "smoke")
        policy = load_policy("random")
    else:
        policy = load_policy("react", model=args.model, prompts=args.prompts)
    with Display():
        row = score(policy, args.env, args.splits, args.out,
                    dataset=args.dataset, n_tasks=args.n_tasks)  # fmt: skip
    show(f"{args.model}: {row}")
    for model in ("GPT-4", "GPT-3.5-Turbo"):
        show(published("ReAct prompting", model))
    show(published("untuned"))


if __name__ == "__main__":
    main(tyro.cli(Args))
