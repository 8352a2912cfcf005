"""Pretraining: what a step is on, its resumption, and what ``tiny-base`` can do."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eto_agents.models import checkpoint as checkpoint_module
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.models.tiny import SIZES, make_model
from eto_agents.pretrain import __main__ as command
from eto_agents.pretrain.probes import Probe, accuracy
from eto_agents.pretrain.renaming import draw_code
from eto_agents.pretrain.texts import DEV_ROUNDS, DEV_SHOP_SEEDS, wander
from eto_agents.pretrain.tokenizer import make_tokenizer
from eto_agents.pretrain.training import IGNORED, Batches, Pretraining, learning_rate, pretrain
from eto_agents.trajectory import Message
from eto_envs.errors import CorruptDataError

torch = pytest.importorskip("torch")

SETTINGS = Pretraining(n_tokens=6 * 512, batch_tokens=512, n_string_steps=2, n_warmup=2)


def _chats(world: str) -> list[list[Message]]:
    lines = {
        "webshop": "Page 1 [SEP] B0AAAAAAA{n} [SEP] Red Mug, Large [SEP] $1{n}.50",
        "alfworld": "On the shelf {n}, you see a mug {n}, and a pen 2.",
        "scienceworld": "You move the mug {n} to the inventory.",
    }
    return [
        [
            {"role": "user", "content": "instruction"},
            {"role": "assistant", "content": "OK"},
            {"role": "user", "content": lines[world].format(n=n)},
            {"role": "assistant", "content": "Action: look"},
        ]
        for n in range(9)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    worlds = map(_chats, ("webshop", "alfworld", "scienceworld"))
    return make_tokenizer([m["content"] for chats in worlds for chat in chats for m in chat])


@pytest.fixture
def batches(tokenizer: Any) -> Batches:
    worlds = ("webshop", "alfworld", "scienceworld")
    return Batches({world: _chats(world) for world in worlds}, tokenizer, SETTINGS)


def test_codes_and_numbers_are_made_of_single_characters(tokenizer: Any) -> None:
    pieces = tokenizer.tokenize("click[B0XY12QZ3M] a mug 17")
    assert "".join(pieces).replace("Ġ", " ") == "click[B0XY12QZ3M] a mug 17"
    assert [*"B0XY12QZ3M"] == [piece for piece in pieces if piece in {*"B0XY12QZ3M"}][:10]
    assert pieces[-2:] == ["Ġ1", "7"]


def test_a_step_depends_on_its_number_only(batches: Batches) -> None:
    for step in (0, 3, 4, 5):
        ids, labels = batches(step)
        again, _ = batches(step)
        assert torch.equal(ids, again)
        assert ids.shape == labels.shape
        assert ids.numel() <= 2 * SETTINGS.batch_tokens
        trained = labels != IGNORED
        assert trained.any()
        assert torch.equal(ids[trained], labels[trained])
    assert batches.kind(0) == "strings"
    kinds = {batches.kind(step) for step in range(2, 100)}
    assert kinds == {*SETTINGS.weights}


def test_strings_are_trained_where_they_are_repeated(batches: Batches) -> None:
    ids, labels = batches(1)
    n = int((labels[0] != IGNORED).sum())
    assert torch.equal(labels[:, -n:], ids[:, :n])
    assert (labels[:, :-n] == IGNORED).all()


def test_training_resumes_with_the_same_weights(
    batches: Batches, tokenizer: Any, tmp_path: Path
) -> None:
    whole = make_model(SIZES["nano"], tokenizer, 0)
    pretrain(whole, batches, SETTINGS, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise Killed

    killed = make_model(SIZES["nano"], tokenizer, 0)
    with pytest.raises(Killed):
        pretrain(killed, batches, SETTINGS, tmp_path / "killed", log=kill, save_every=3)
    resumed = make_model(SIZES["nano"], tokenizer, 1)
    rows: list[dict[str, Any]] = []
    pretrain(resumed, batches, SETTINGS, tmp_path / "killed", log=rows.append, save_every=3)
    assert [row["step"] for row in rows] == [6, 8]
    for name, weight in whole.named_parameters():
        assert torch.equal(weight, resumed.get_parameter(name)), name


def test_the_learning_rate_rises_stays_and_decays() -> None:
    settings = dataclasses.replace(SETTINGS, n_tokens=100 * 512, n_string_steps=0, n_warmup=10)
    rates = [learning_rate(step, settings) / settings.learning_rate for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[74] == 1.0
    assert rates[99] == 0.05
    assert rates[75:] == sorted(rates[75:], reverse=True)


def test_accuracy_counts_only_exact_answers(tokenizer: Any) -> None:
    model = make_model(SIZES["nano"], tokenizer, 0)
    chat: list[Message] = [{"role": "user", "content": "mug 1"}]
    assert accuracy(model, tokenizer, [Probe(chat, "Action: take mug", " 1")]) == 0.0


@pytest.fixture(scope="module")
def base() -> Any:
    return load_checkpoint("tiny-base", device="cpu")


def test_tiny_base_is_a_small_llama_in_float32(base: Any) -> None:
    assert base.model.config.model_type == "llama"
    assert base.model.config.head_dim >= 32
    assert 1_000_000 <= sum(p.numel() for p in base.model.parameters()) <= 3_000_000
    assert next(base.model.parameters()).dtype == torch.float32
    assert (base.template, base.prompts, base.with_example) == ("plain", "brief", False)
    folder = Path(checkpoint_module.__file__).with_name("tiny_base")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8 * 2**20


@pytest.mark.parametrize("damage", ["cut", "other", "gone"])
def test_a_damaged_tiny_base_names_the_command_that_makes_it(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(checkpoint_module.__file__).with_name("tiny_base")
    shutil.copytree(source, tmp_path / "tiny_base")
    weights = tmp_path / "tiny_base" / "model.safetensors"
    if damage == "gone":
        weights.unlink()
    else:
        content = weights.read_bytes()
        weights.write_bytes(content[:1000] if damage == "cut" else content[:-1] + b"\0")
    monkeypatch.setattr(checkpoint_module, "__file__", str(tmp_path / "checkpoint.py"))
    with pytest.raises(CorruptDataError, match=r"python -m eto_agents\.pretrain"):
        load_checkpoint("tiny-base")


def test_tiny_base_copies_what_it_has_just_read(base: Any) -> None:
    """On other things than docs/tiny_base.md, and fewer: there it is 0.948 and 0.968."""
    rng = np.random.default_rng(0)
    probes = []
    for _ in range(60):
        codes = [draw_code(rng) for _ in range(6)]
        titles = ("Red Kettle", "Soft Pillow", "Oak Drawer", "Desk Lamp", "Blue Mug", "Soap Bar")
        page = " [SEP] ".join(
            f"{c} [SEP] {t} [SEP] $12.50" for c, t in zip(codes, titles, strict=True)
        )
        chat: list[Message] = [
            {"role": "user", "content": "WebShop. Actions: search[words], click[label]."},
            {"role": "assistant", "content": "OK"},
            {"role": "user", "content": f"Instruction: [SEP] i need a mug [SEP] {page}"},
        ]
        code = codes[int(rng.integers(6))]
        probes.append(Probe(chat, f"Action: click[{code[:5]}", f"{code[5:]}]"))
    assert accuracy(base.model, base.tokenizer, probes) >= 0.85


@pytest.mark.slow
def test_the_command_makes_a_model_of_the_same_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def little(out: Path, *_: Any, **__: Any) -> dict[str, list[Path]]:
        return wander(out, DEV_SHOP_SEEDS, DEV_ROUNDS, java=False)

    monkeypatch.setattr(command, "wander", little)
    monkeypatch.setattr(command, "measure", lambda *_: {"code": 0.0, "number": 0.0})
    settings = Pretraining(n_tokens=2 * 8192, n_string_steps=2)
    command.make(tmp_path, "nano", settings)
    made, shipped = tmp_path / "tiny_base", Path(checkpoint_module.__file__).with_name("tiny_base")
    assert {file.name for file in made.iterdir()} == {file.name for file in shipped.iterdir()}
    made_model = load_checkpoint(made, device="cpu")
    assert next(made_model.model.parameters()).dtype == torch.float32
    assert made_model.prompts == "brief"
    [row] = map(json.loads, (tmp_path / "curve.jsonl").read_bytes().splitlines())
    assert (row["step"], row["code"]) == (4, 0.0)
    files = json.loads((made / "files.json").read_bytes())
    assert files.keys() == {file.name for file in made.iterdir()} - {"files.json"}
