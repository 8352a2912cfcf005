"""``python -m eto_agents.pretrain --out FOLDER`` makes ``tiny-base``; see `--help`."""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eto_agents.console import Display
from eto_agents.console import log as progress
from eto_agents.models.checkpoint import TINY_BASE_FILES, Checkpoint, save_checkpoint
from eto_agents.models.tiny import SIZES, make_model
from eto_agents.pretrain.probes import measure
from eto_agents.pretrain.texts import DEV_ROUNDS, DEV_SHOP_SEEDS, chats, wander
from eto_agents.pretrain.tokenizer import make_tokenizer
from eto_agents.pretrain.training import Batches, Pretraining, pretrain
from eto_agents.strict_json import json_text, write_json
from eto_agents.trajectory import Message
from eto_envs.files import sha256_of

_TOKENIZER_CHATS = 400  # of each world
_MEASURE_EVERY = 500  # steps


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and make the model."""
    settings = Pretraining()
    parser = argparse.ArgumentParser(
        prog="python -m eto_agents.pretrain",
        description="Make tiny-base, the pretrained model that is part of eto-gym: generate "
        "worlds, let an agent try things at random in them, and train a new model on what they "
        "say. Takes about two hours on one core. Repeat the command to resume. FOLDER/curve.jsonl "
        "has the losses and what the model can copy, FOLDER/tiny_base the model.",
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="Where to work.")
    parser.add_argument(
        "--tokens",
        metavar="N",
        type=int,
        default=settings.n_tokens,
        help="Tokens to train on. (default: %(default)s)",
    )
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="Shape of the model. (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=settings.seed, help="Seed. (default: %(default)s)"
    )
    args = parser.parse_args(arguments)
    with Display():
        make(args.out, args.size, Pretraining(n_tokens=args.tokens, seed=args.seed))


def make(out: Path, size: str, settings: Pretraining) -> None:
    """Generate the texts, train, measure and save.

    Args:
        out: the folder.
        size: the shape of the model, one of `eto_agents.models.tiny.SIZES`.
        settings: the settings of pretraining.
    """
    torch.set_num_threads(1)
    texts = _read(wander(out / "texts"))
    dev = _read(wander(out / "dev", DEV_SHOP_SEEDS, DEV_ROUNDS, java=False))
    rng = random.Random(settings.seed)
    tokenizer = make_tokenizer(
        [
            message["content"]
            for of_world in texts.values()
            for chat in rng.sample(of_world, min(len(of_world), _TOKENIZER_CHATS))
            for message in chat
        ]
    )
    model = make_model(SIZES[size], tokenizer, settings.seed)
    checkpoint = Checkpoint(model, tokenizer, "plain", "brief", with_example=False)

    def log(row: dict[str, Any]) -> None:
        if row["step"] % _MEASURE_EVERY == 0 or row["step"] == settings.n_steps:
            row |= measure(model, tokenizer, dev)
        line = json_text(row)
        progress(line)
        with (out / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    pretrain(model, Batches(texts, tokenizer, settings), settings, out / "state", log=log)
    pack(checkpoint, out / "tiny_base")


def _read(files: Mapping[str, Sequence[Path]]) -> dict[str, list[list[Message]]]:
    return {world: list(chats(of_world)) for world, of_world in files.items()}


def pack(checkpoint: Checkpoint, folder: Path) -> None:
    """Save a model in half precision, with the hash of each file.

    It is trained on in single precision, which the configuration says.
    """
    half = {name: w.detach().half() for name, w in checkpoint.model.state_dict().items()}
    save_checkpoint(checkpoint, folder, weights=half)
    names = sorted(file.name for file in folder.iterdir() if file.name != TINY_BASE_FILES)
    hashes = {name: sha256_of(folder / name) for name in names}
    write_json(folder / TINY_BASE_FILES, hashes)


if __name__ == "__main__":
    main()
