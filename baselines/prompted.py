"""A model as it is, prompted with one example: the upper rows of the paper's Table 2.

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

from eto_agents.console import Display
from eto_agents.policy import load_policy


@dataclass
class Args:
    """Flags.

    Attributes:
        model: the chat model: hf:PATH or openai:NAME.
        prompts: own, published, brief, or a TOML file.
        env: environment id.
        dataset: mini, an official name, or a folder with the official files.
        splits: what is played.
        n_tasks: only the first this many tasks of each split.
        out: the folder of the run.
        smoke: the random agent, which needs no model, on 20 tasks of the embedded shop.
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
    """Play, and print the model's row and the published ones."""
    if args.smoke:
        args = Args("random", "", SHOP, "mini", n_tasks=20, out=args.out / "smoke")
        policy = load_policy("random")
    else:
        policy = load_policy("react", model=args.model, prompts=args.prompts)
    with Display():
        row = score(policy, args.env, args.splits, args.out,
                    dataset=args.dataset, n_tasks=args.n_tasks)  # fmt: skip
    print(f"{args.model}: {row}")
    for model in ("GPT-4", "GPT-3.5-Turbo"):
        print(published("ReAct prompting", model))
    print(published("untuned"))


if __name__ == "__main__":
    main(tyro.cli(Args))
