"""A damaged file is an error that names the file, whatever is wrong with it.

Every kind of file that the library reads is damaged at random (`tests.damage`) and read as the
library reads it: either it can still be read, or one of the library's own errors says what is
wrong. A few copies of each here; `pytest tests/test_damaged_files.py --timeout 0 --n-mutants 500`
reads that many.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eto_agents.cli.convert import import_file
from eto_agents.cli.train import with_config
from eto_agents.collection import read_collection
from eto_agents.evaluation.published import parse_published
from eto_agents.evaluation.results import Results
from eto_agents.evaluation.runs import read_run
from eto_agents.formats.chats import chats_of
from eto_agents.formats.preference import (
    write_eto_preference,
    write_llama_factory_ranking,
    write_trl,
)
from eto_agents.formats.sft import write_eto_sft, write_llama_factory_sft, write_messages
from eto_agents.hub.push import prepare
from eto_agents.models.recordings import Recordings
from eto_agents.models.scripted import ScriptedModel
from eto_agents.preference import PreferencePair, read_pairs, write_pairs
from eto_agents.react.prompts import load_prompts
from eto_agents.report.full_report import write_report
from eto_agents.report.replay import write_replay
from eto_agents.reproduce.outcome import Outcome
from eto_agents.reproduce.recipe import read_recipe
from eto_agents.runs import RunFolder
from eto_agents.settings import SFT, overlay
from eto_agents.store import TrajectoryStore
from eto_agents.tracking import Trackers
from eto_envs import data
from eto_envs.alfworld.data.datasets import build_official
from eto_envs.alfworld.data.export import find_texts
from eto_envs.alfworld.data.pack import Pack, build_pack
from eto_envs.alfworld.data.reading import read_game
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game
from eto_envs.alfworld.engine.rules import step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.errors import EtoError
from eto_envs.scienceworld.tasks import find_splits
from eto_envs.webshop.audit import compare
from eto_envs.webshop.data.bundle import build_bundle
from eto_envs.webshop.data.datasets import find_bundle
from eto_envs.webshop.data.manifest import MANIFEST, file_stamp
from eto_envs.webshop.data.shop import open_shop
from eto_envs.webshop.env import WebShopEnv
from eto_envs.webshop.site.sessions import Visits
from tests.agents.evaluation.made_runs import made_run, scores_of
from tests.agents.training.episodes import episode
from tests.damage import Damage
from tests.envs.alfworld.house import GOALS, game_file, task_id
from tests.envs.webshop.conftest import product, request_entry, write_source

ROOT = Path(__file__).resolve().parents[1]
HAS_TORCH = importlib.util.find_spec("transformers") is not None

pytestmark = [
    pytest.mark.filterwarnings("ignore:the nouns of product names:UserWarning"),
    # peft 0.21 asks transformers 5.23 by a name that is on its way out.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        write: writes intact files into a folder.
        read: reads them as the library does.
        damage: which of them to damage, as a pattern.
        n_mutants: how many damaged copies the suite reads.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    damage: str
    n_mutants: int = 25


# WebShop


def write_shop(folder: Path) -> None:
    asins = [f"B{number:09}" for number in range(4)]
    products = [product(asin) for asin in asins]
    products[1]["pricing"] = "$10.00 - $30.00"
    annotation = {
        "attributes": ["machine wash", "cotton"],
        "instruction": "Find me cotton shirts",
        "instruction_attributes": ["cotton"],
    }
    human = {asin: [request_entry(f"a shirt {asin}.", ["cotton"], ["red"])] for asin in asins}
    write_source(folder, products, dict.fromkeys(asins, annotation), human)
    names = {entry["name"]: ["shirt"] for entry in products}
    (folder / "nouns.json").write_text(json.dumps(names))
    (folder / "train_indices.json").write_text("[0, 1]")
    (folder / "test_indices.json").write_text("[2, 3]")


def write_bundle(folder: Path) -> None:
    write_shop(folder / "source")
    build_bundle(folder / "source", folder / "bundle")
    shutil.rmtree(folder / "source")


def visits_of(folder: Path) -> Visits:
    env = WebShopEnv("all", dataset=str(folder / "bundle"))
    return Visits(env._engine, env.tasks, journal=folder / "journal.jsonl")


def write_journal(folder: Path) -> None:
    write_bundle(folder)
    visits = visits_of(folder)
    for wanted in visits.tasks.ids[:2]:
        visit = visits.open(wanted)
        for turn, action in enumerate(("search[red shirt]", "click[b000000001]")):
            visit = visits.act(visit.id, turn, action)
    visits.close()


def read_journal(folder: Path) -> None:
    visits_of(folder).close()


def play_bundle(folder: Path) -> None:
    for kwargs in ({}, {"goals": "synthetic"}, {"price_seed": 7}):
        env = WebShopEnv("all", dataset=str(folder / "bundle"), **kwargs)
        for task in env.tasks:
            env.reset(options={"task": task.id})
            for action in ("search[red shirt]", "click[b000000001]", "click[buy now]"):
                env.step(action)
        assert env.find_tasks("train").sha256
        shop = env._engine.shop
        for group in ("fashion", "garden"):
            assert len(shop.in_category(group)) <= len(shop.asins)
        assert len(shop.fingerprint) == 64


def play_restamped_bundle(folder: Path) -> None:
    """A bundle whose manifest has the hashes of its damaged files."""
    path = folder / "bundle" / MANIFEST
    manifest = json.loads(path.read_bytes())
    for name in manifest["files"]:
        manifest["files"][name] = file_stamp(folder / "bundle" / name)
    path.write_text(json.dumps(manifest))
    play_bundle(folder)


def asin_of_first_goal() -> str:
    return open_shop(find_bundle("mini")).goals[0].asin


def write_webshop_transcript(folder: Path) -> None:
    page = {"observation": "x", "available_actions": {}, "reward": 0, "done": False, "url": ""}
    record = {
        "goal_index": 0,
        "goal": {"asin": "B"},
        "init": page,
        "steps": [page | {"action": ""}],
    }
    (folder / "t.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))


# ALFWorld


def write_games(folder: Path) -> None:
    for kind in GOALS:
        path = folder / "json_2.1.1" / "train" / task_id(kind, 0) / "game.tw-pddl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(game_file(kind, "2.1.1")))


def write_pack_of(folder: Path, name: str) -> None:
    write_games(folder / "games")
    build_pack(folder / "games", folder / "games.pack")
    shutil.rmtree(folder / "games")
    if name != "games.pack":
        packed = gzip.compress((folder / "games.pack").read_bytes(), mtime=0)
        (folder / name).write_bytes(packed)
        (folder / "games.pack").unlink()


def play_game(game: Game) -> None:
    state = game.start
    introduction(game)
    for command in [*admissible_commands(game, state)[:40], "look", "inventory"]:
        state, _, _ = step(game, state, command)
        game.facts(state)


def play_pack(path: Path) -> None:
    pack = Pack(path)
    for ids in pack.splits.values():
        for one in ids:
            for grammar in ("2.1.1", "2.1.2"):
                play_game(Game(pack.problem(one), grammar))


def play_games(folder: Path) -> None:
    for path in folder.rglob("*.tw-pddl"):
        find_texts(path)
        problem, grammar = read_game(path)
        play_game(Game(problem, grammar))


def write_zip(folder: Path) -> None:
    write_games(folder / "games")
    with zipfile.ZipFile(folder / "games.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "games").rglob("*.tw-pddl")):
            archive.write(path, path.relative_to(folder / "games"))
    shutil.rmtree(folder / "games")


# Runs


def write_run(folder: Path) -> None:
    made_run(folder / "run", {"seen": scores_of(0.0, 0.5, 1.0), "unseen": scores_of(1.0, 0.25)})
    run = read_run(folder / "run")
    splits = {split.split: split.summary for split in run.splits}
    results = Results("ETO-ALFWorld-v0", "mini", "agent", splits, {"agent_errors": "exclude"})
    results.save(folder / "run" / "results.json")


def read_whole_run(folder: Path) -> None:
    run = folder / "run"
    errors = []
    for read in (
        lambda: [split.summary for split in read_run(run).splits],
        lambda: write_report([str(run)], folder / "report"),
        lambda: write_replay([run], folder / "replay.html"),
        lambda: read_collection(run),
        lambda: TrajectoryStore(run / "episodes.jsonl").latest(),
        lambda: Results.load(run),
        lambda: prepare(run, "me/run", partial=True),
    ):
        try:
            read()
        except EtoError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def write_stage(folder: Path) -> None:
    with RunFolder(folder / "stage", SFT(), {"data": "0" * 64}, kind="sft") as run:
        for number in range(4):
            run.log({"step": number, "loss": 1.5})
        run.finish({"score": 0.5, "n_trajectories": 3})
    outcome = {"world": "webshop", "seed": 0, "rows": {"sft": "a"}, "notes": {}, "facts": {}}
    (folder / "stage/outcome.json").write_text(json.dumps(outcome))
    sent = {"tensorboard": {"id": "tensorboard", "step": 3}}
    (folder / "stage/trackers.json").write_text(json.dumps(sent))


def read_stage(folder: Path) -> None:
    Outcome.load(folder / "stage")
    Trackers(("tensorboard",), folder / "stage", {})
    with RunFolder(folder / "stage", SFT(), {"data": "0" * 64}, kind="sft") as run:
        assert isinstance(run.result, dict)
        run.rewind(2)


# Files of other programs


def pairs() -> list[PreferencePair]:
    prompt = [{"role": "user", "content": "task"}]
    sides = [[{"role": "assistant", "content": f"Action: {text}"}] for text in "ab"]
    return [PreferencePair(prompt, *sides, 1.0, 0.5, "7", "ETO-WebShop-v0")] * 2  # type: ignore[arg-type]


def write_chats(folder: Path, write: Any, suffix: str) -> None:
    write(folder / f"x{suffix}", chats_of([episode(1), episode(2)], load_prompts()))


def import_chats(folder: Path, format: Any) -> None:
    import_file(format, next(folder.glob("x.*")), folder / "imported")
    read_collection(folder / "imported")


def import_pairs(folder: Path, format: Any) -> None:
    import_file(format, next(folder.glob("x.*")), folder / "imported.jsonl")
    list(read_pairs(folder / "imported.jsonl"))


# Settings


def write_config(folder: Path) -> None:
    lines = (
        *("epochs = 3.0", "learning_rate = 1e-5", "batch_size = 8", "max_length = 100"),
        *('dtype = "auto"', "report_to = []", "warmup_ratio = 0.1", 'template = "plain"'),
    )
    (folder / "x.toml").write_text("\n".join(lines) + "\n")


def read_config(folder: Path) -> None:
    from eto_envs.files import read_toml

    overlay(SFT(), read_toml(folder / "x.toml"), str(folder / "x.toml"))
    with_config(["train", "sft", "--config", str(folder / "x.toml")])


def read_prompt(folder: Path) -> None:
    for prompt in load_prompts(folder / "x.toml").values():
        assert prompt.sha256
        assert prompt.head(with_example=True)


def copied(*parts: str) -> Callable[[Path], object]:
    """Copies a file of the repository."""
    source = ROOT.joinpath(*parts)
    return lambda folder: shutil.copyfile(source, folder / f"x{source.suffix}")


def write_text(name: str, value: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(value))


def write_lines(name: str, values: list[Any]) -> Callable[[Path], object]:
    text = "".join(json.dumps(value) + "\n" for value in values)
    return lambda folder: (folder / name).write_text(text)


def write_index_files(folder: Path) -> None:
    for name in ("train", "dev", "test"):
        (folder / f"{name}_indices.json").write_text('[["task-1-boil", 3], ["melt", 2]]')


# Models


def write_model(folder: Path) -> None:
    from eto_agents.models.checkpoint import save_checkpoint
    from eto_agents.models.tiny import make_tiny

    made = make_tiny(["Action: go to desk 1", "You see a mug 1."], size="nano", vocab_size=300)
    save_checkpoint(made, folder / "model")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors"}}
    (folder / "model/model.safetensors.index.json").write_text(json.dumps(index))


def write_adapter(folder: Path) -> None:
    import dataclasses

    from peft import LoraConfig, get_peft_model

    from eto_agents.models.checkpoint import load_checkpoint, save_checkpoint

    write_model(folder)
    base = load_checkpoint(folder / "model", device="cpu")
    lora = get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj"]))
    save_checkpoint(dataclasses.replace(base, model=lora), folder / "adapter")


def write_gguf(folder: Path) -> None:
    """A Llama of one layer, as llama.cpp's converter names its parts."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    width, n_heads, inner = 16, 2, 32
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // n_heads)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [chr(code) for code in range(33, 127)]
    words = [*controls, *letters, "ab"]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(words) - 3)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    shapes = {
        "token_embd": (len(words), width),
        "output_norm": (width,),
        "output": (len(words), width),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        **{f"blk.0.attn_{part}": (width, width) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (inner, width),
        "blk.0.ffn_up": (inner, width),
        "blk.0.ffn_down": (width, inner),
    }
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(folder: Path) -> None:
    from eto_agents.models.checkpoint import load_checkpoint

    load_checkpoint(str(folder / "model.gguf"), device="cpu", template="smollm2")


def read_model(folder: Path, name: str = "model") -> None:
    from eto_agents.models.checkpoint import load_checkpoint

    load_checkpoint(folder / name, device="cpu")


def read_adapter(folder: Path) -> None:
    from eto_agents.models.checkpoint import load_checkpoint

    load_checkpoint(folder / "model", adapter=str(folder / "adapter"), device="cpu")


def write_state(folder: Path) -> None:
    import torch

    from eto_agents.training.states import save_state

    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_state(folder, module, optimizer, 3)


def read_state(folder: Path) -> None:
    import torch

    from eto_agents.training.states import load_state

    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    load_state(folder, module, optimizer)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()


def trainer_of(folder: Path) -> Any:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from eto_agents.models.tiny import make_tiny

    made = make_tiny(["Action: go to desk 1", "You see a mug 1."], size="nano", vocab_size=300)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=1,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    ids = made.tokenizer("go to desk 1")["input_ids"]
    rows = [{"input_ids": ids, "labels": ids}] * 2
    trainer = Trainer(made.model, arguments, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    return trainer


def write_trainer_state(folder: Path) -> None:
    trainer_of(folder).train()
    shutil.rmtree(folder / "checkpoint-2")
    (folder / "checkpoint-1/training_args.bin").unlink()  # is never read


def resume(folder: Path) -> None:
    from eto_agents.training.trl import newest_state, train_from

    trainer = trainer_of(folder)
    train_from(trainer, newest_state(folder))
    assert trainer.state.global_step >= 2


KINDS: dict[str, Kind] = {
    "webshop bundle": Kind(write_bundle, play_bundle, "bundle/**/*.*", 40),
    "webshop bundle with new hashes": Kind(
        write_bundle, play_restamped_bundle, "bundle/**/*[!e].*", 60
    ),
    "webshop files": Kind(write_shop, lambda f: build_bundle(f, f / "bundle"), "*.json"),
    "webshop transcript": Kind(
        write_webshop_transcript, lambda f: compare(f / "t.jsonl.gz", dataset="mini"), "*.gz"
    ),
    "webshop journal": Kind(write_journal, read_journal, "journal.jsonl"),
    "alfworld pack": Kind(
        lambda f: write_pack_of(f, "games.pack"), lambda f: play_pack(f / "games.pack"), "*.pack"
    ),
    "alfworld pack, gzipped": Kind(
        lambda f: write_pack_of(f, "games.pack.gz"),
        lambda f: play_pack(f / "games.pack.gz"),
        "*.gz",
    ),
    "alfworld games": Kind(write_games, play_games, "**/*.tw-pddl"),
    "alfworld archive": Kind(write_zip, lambda f: build_official(f / "games.zip"), "*.zip"),
    "scienceworld index": Kind(write_index_files, lambda f: find_splits(str(f)), "*.json"),
    "data manifest": Kind(
        copied("eto_envs", "manifest.toml"), lambda f: data.status(manifest_path=f / "x.toml"), "*"
    ),
    "run": Kind(write_run, read_whole_run, "run/*.json*", 10),
    "stage": Kind(write_stage, read_stage, "stage/*.json*"),
    "pairs": Kind(
        lambda f: write_pairs(f / "x.jsonl", pairs()),
        lambda f: list(read_pairs(f / "x.jsonl")),
        "*",
    ),
    "scripted replies": Kind(
        write_text("x.json", ["a", "b"]), lambda f: ScriptedModel(f / "x.json"), "*"
    ),
    "recorded replies": Kind(
        write_lines("x.jsonl", [{"key": str(n), "reply": {"choices": []}} for n in range(3)]),
        lambda f: Recordings(f / "x.jsonl"),
        "*",
    ),
    "settings": Kind(write_config, read_config, "*"),
    "recipe": Kind(
        copied("eto_agents", "recipes", "cpu.toml"), lambda f: read_recipe(str(f / "x.toml")), "*"
    ),
    "prompt": Kind(
        copied("eto_agents", "worlds", "prompts", "webshop.toml"), read_prompt, "*"
    ),
    "published results": Kind(
        copied("baselines", "published.toml"),
        lambda f: parse_published((f / "x.toml").read_text(errors="replace"), "x.toml"),
        "*",
    ),
}  # fmt: skip
for name, write, suffix in (
    ("eto-sft", write_eto_sft, ".json"),
    ("llama-factory-sft", write_llama_factory_sft, ".json"),
    ("messages", write_messages, ".jsonl"),
):
    KINDS[name] = Kind(
        functools.partial(write_chats, write=write, suffix=suffix),
        functools.partial(import_chats, format=name),
        "x.*",
    )
for name, write_them, suffix in (
    ("eto-preference", write_eto_preference, ".json"),
    ("llama-factory-ranking", write_llama_factory_ranking, ".json"),
    ("trl", write_trl, ".jsonl"),
):
    KINDS[name] = Kind(
        lambda f, w=write_them, s=suffix: w(f / f"x{s}", pairs()),  # type: ignore[misc]
        functools.partial(import_pairs, format=name),
        "x.*",
    )
OF_TORCH: dict[str, Kind] = {
    "checkpoint": Kind(write_model, read_model, "model/*", 6),
    "adapter": Kind(write_adapter, read_adapter, "adapter/*", 6),
    "gguf": Kind(write_gguf, read_gguf, "*.gguf"),
    "state of a trainer": Kind(write_trainer_state, resume, "checkpoint-1/*", 10),
    "state of PPO": Kind(write_state, read_state, "*.safetensors"),
}
KINDS |= OF_TORCH


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.torch] * (name in OF_TORCH)) for name in KINDS],
)
def test_a_damaged_file_is_an_error_that_names_it(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in OF_TORCH and not HAS_TORCH:
        pytest.skip("the extra train is not installed")
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kind = KINDS[name]
    intact = tmp_path / "intact"
    intact.mkdir()
    kind.write(intact)
    n_mutants = request.config.getoption("--n-mutants") or kind.n_mutants
    seed = request.config.getoption("--fuzz-seed")
    n_refused = sum(refuses(kind, intact, tmp_path, f"{seed} {name} {n}") for n in range(n_mutants))
    assert n_refused > n_mutants / 4  # most damage is noticed


def names_file(error: EtoError, path: Path) -> bool:
    """Whether an error says which file is damaged, or its folder."""
    return any(name in str(error) for name in (path.name, path.stem, str(path.parent)))


def refuses(kind: Kind, intact: Path, tmp_path: Path, seed: str) -> bool:
    """Whether a damaged copy is refused; fails if it is by an error that is not the library's."""
    folder = tmp_path / f"of-{seed.rpartition(' ')[2]}"  # datasets are opened once for each path
    shutil.copytree(intact, folder)
    damage = Damage(int.from_bytes(seed.encode(), "big"))
    path = damage.draw.choice(sorted(p for p in folder.glob(kind.damage) if p.is_file()))
    path.write_bytes(damage.of(path.name, path.read_bytes()))
    os.utime(path, ns=(damage.draw.randrange(2**60),) * 2)  # caches go by times
    try:
        with warnings.catch_warnings():
            # Of transformers and peft: what they warn of is in the error, too.
            warnings.simplefilter("ignore" if kind in OF_TORCH.values() else "error")
            kind.read(folder)
    except EtoError as error:
        return names_file(error, path) or pytest.fail(f"seed {seed!r}, {path.name}: {error!r:.300}")
    except Exception as error:
        raise AssertionError(f"seed {seed!r}, {path.name}: {error!r:.300}") from error
    finally:
        shutil.rmtree(folder)
    return False
