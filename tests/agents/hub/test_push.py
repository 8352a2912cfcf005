"""Pushing to the hub: what is sent, and to a local stand-in of the hub, that it arrives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eto_agents import Results, evaluate
from eto_agents.cli import main
from eto_agents.episode_log import read_log
from eto_agents.evaluation.runs import read_run
from eto_agents.hub.push import Upload, prepare
from eto_agents.hub.push import push as send
from eto_agents.runs import RunFolder, once
from eto_agents.settings import SFT
from eto_agents.strict_json import write_json
from eto_agents.trajectory import Trajectory
from eto_envs.errors import DataError, DataNotFoundError, UnknownNameError
from eto_envs.files import sha256_of
from tests.agents.training.worlds import BANDIT  # noqa: F401 (registers worlds)
from tests.hub_server import TOKEN, HubServer, serve_hub
from tests.toy import CORRIDOR

hub_package = pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).resolve().parents[3]
NASTY = "evil | agent `rm` [x](http://y) <b>\x1b[2J"


class Walker:
    """An agent with a name that nobody should have, in a folder of someone's."""

    name = f"react (hf:/scratch/me/sft) {NASTY}"
    provenance: ClassVar = {"model": "hf:/scratch/me/sft", "prompts": "own"}

    def reset(self, task: Any, seed: int) -> None:
        self.fails = task.id == "room3"

    def act(self, observation: str, info: Any) -> str:
        if self.fails:
            raise ValueError("cannot read /scratch/me/secret.txt")
        return "east"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "eval"
    evaluate(Walker, CORRIDOR, ("seen", "unseen"), out=folder, n_tasks=3)
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A complete training, with everything beside the checkpoint that must stay here."""

    def make(run: RunFolder) -> dict[str, Any]:
        run.log({"step": 1, "loss": 1.0})
        checkpoint(run.checkpoint)
        return {"n_steps": 1}

    folder = tmp_path / "runs" / "sft"
    once(folder, make, kind="sft", settings=SFT(template="plain"), model="Qwen/Qwen2.5-0.5B")
    (folder / "work/checkpoint-3").mkdir(parents=True)
    (folder / "work/checkpoint-3/optimizer.pt").write_bytes(b"state")
    return folder


def checkpoint(folder: Path, **configs: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    configs = {"config": {"model_type": "llama"}, "eto": {"prompts": "brief"}} | configs
    for name, record in configs.items():
        write_json(folder / f"{name}.json", record)
    write_json(folder / "tokenizer.json", {"model": {"vocab": {"/usr/bin/env": 0}}})
    (folder / "model.safetensors").write_bytes(b"weights")
    for leftover in ("optimizer.pt", "training_args.bin", ".lock", "trainer_state.json", "a.tmp"):
        (folder / leftover).write_bytes(b"leftover")
    return folder


def content(upload: Upload, name: str) -> bytes:
    value = upload.files[name]
    return value if isinstance(value, bytes) else value.read_bytes()


def results_of(folder: Path, out: Path, **policy: Any) -> Path:
    """An evaluation as if it were of a checkpoint."""
    evaluate("expert", CORRIDOR, ("seen",), out=out)
    results = Results.load(out)
    hashes = {"checkpoint/model.safetensors": sha256_of(folder / "model.safetensors")}
    about = {"model": "hf:/scratch/me/sft", "model_provenance": {"weights_sha256": hashes}} | policy
    provenance = results.provenance | {"policy": about}
    replace(results, policy="react (hf:/scratch/me/sft)", provenance=provenance).save(
        out / "results.json"
    )
    return out


def metadata(card: str) -> dict[str, Any]:
    data: dict[str, Any] = hub_package.ModelCard(card).data.to_dict()
    return data


def test_a_run_becomes_a_dataset(run: Path) -> None:
    upload = prepare(run, "me/walks", licence="mit")
    assert (upload.repo, upload.kind) == ("me/walks", "dataset")
    assert set(upload.files) == {"README.md", "episodes.jsonl", "run.json", "results.json"}
    data = metadata(upload.card)
    assert (data["license"], data["size_categories"]) == ("mit", ["n<1K"])
    assert data["configs"][0]["data_files"] == [{"split": "episodes", "path": "episodes.jsonl"}]
    assert 'load_dataset("me/walks", split="episodes")' in upload.card
    rows = [line for line in upload.card.splitlines() if "| seen | 2 | 1.000" in line]
    assert len(rows) == 1
    assert rows[0].endswith("| 1 (1 agent_error) |")
    hashes = read_run(run).splits
    assert all(split.sha256 in upload.card for split in hashes)
    assert "The licence is mit." in upload.card
    assert "The terms of the texts of eto-test/Corridor-v0 are not known here." in upload.card


def test_names_are_escaped_in_cards(run: Path) -> None:
    card = prepare(run, "me/walks").card
    _, _, body = card.partition("\n---\n")
    assert "\x1b" not in card
    assert "evil \\| agent \\`rm\\` [x\\](http://y) \\<b>" in body.replace("\\>", ">")
    widths = {row.count(" | ") for row in body.splitlines() if "react" in row and row[0] == "|"}
    assert widths == {8}  # no name begins another cell


def test_nothing_sent_has_paths_of_this_machine(run: Path, tmp_path: Path) -> None:
    assert "/scratch/me" in (run / "episodes.jsonl").read_text()
    upload = prepare(run, "me/walks")
    for name in upload.files:
        text = content(upload, name).decode()
        assert "/scratch" not in text, name
        assert str(tmp_path) not in text, name
        assert str(ROOT) not in text, name  # of the agent's traceback
    episodes = content(upload, "episodes.jsonl").decode().splitlines()
    (error,) = {Trajectory.from_json(line).error for line in episodes} - {""}
    assert error.startswith("ValueError: cannot read secret.txt")
    assert "\n" not in error


def test_a_pushed_run_is_still_a_run(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    upload = prepare(run, "me/walks")
    for name in upload.files:
        (copy / name).write_bytes(content(upload, name))
    before, after = read_run(run), read_run(copy)
    assert [s.summary.reward for s in after.splits] == [s.summary.reward for s in before.splits]
    assert after.is_finished
    again = prepare(copy, "me/walks")
    assert {n: content(again, n) for n in again.files} == {
        n: content(upload, n) for n in upload.files
    }


def test_datasets_reads_the_episodes(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    copy = tmp_path / "copy"
    copy.mkdir()
    upload = prepare(run, "me/walks")
    for name in upload.files:
        (copy / name).write_bytes(content(upload, name))
    loaded = datasets.load_dataset(str(copy), split="episodes", cache_dir=str(tmp_path / "cache"))
    actions = [[step["action"] for step in steps] for steps in loaded["steps"]]
    episodes = read_log(run).episodes
    assert actions == [[step.action for step in episode.steps] for episode in episodes]
    assert list(loaded["task_id"]) == [episode.task_id for episode in episodes]


def test_an_unfinished_run_is_refused(run: Path) -> None:
    lines = (run / "episodes.jsonl").read_text().splitlines(keepends=True)
    (run / "episodes.jsonl").write_text("".join(lines[:4]))
    with pytest.raises(DataError, match=r"is not finished, with 4 episodes so far: .* --partial"):
        prepare(run, "me/walks")
    upload = prepare(run, "me/walks", partial=True)
    assert set(upload.files) == {"README.md", "episodes.jsonl", "run.json"}  # results.json is older
    assert "The run was not complete" in upload.card
    (row,) = [line for line in upload.card.splitlines() if "| unseen | " in line and "–" in line]
    assert row.endswith("| 3 (1 agent_error) |")  # of three episodes one has ended, without a score
    assert len(content(upload, "episodes.jsonl").splitlines()) == 4


def test_cancelled_episodes_are_left_out(run: Path) -> None:
    with (run / "episodes.jsonl").open("a") as lines:
        last = json.loads((run / "episodes.jsonl").read_bytes().splitlines()[0])
        lines.write(json.dumps(last | {"seed": 7, "status": "cancelled"}) + "\n")
    sent = content(prepare(run, "me/walks", partial=True), "episodes.jsonl").decode()
    assert len(sent.splitlines()) == 6
    assert "cancelled" not in sent


def test_a_training_becomes_a_model(trained: Path, tmp_path: Path) -> None:
    evaluated = results_of(trained / "checkpoint", tmp_path / "evaluated")
    upload = prepare(trained, "me/walker", results=[evaluated], licence="apache-2.0")
    assert upload.kind == "model"
    sent = {"config.json", "eto.json", "tokenizer.json", "model.safetensors", "README.md"}
    assert set(upload.files) == sent
    assert content(upload, "tokenizer.json") == (trained / "checkpoint/tokenizer.json").read_bytes()
    data = metadata(upload.card)
    assert data["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert (data["library_name"], data["license"]) == ("transformers", "apache-2.0")
    (model,) = data["model-index"]
    (entry,) = model["results"]
    assert model["name"] == "walker"
    assert entry["dataset"]["type"] == CORRIDOR
    assert entry["dataset"]["split"] == "seen"
    assert entry["dataset"]["args"]["tasks_sha256"] in upload.card
    assert {m["type"]: m["value"] for m in entry["metrics"]} == {
        "mean_reward": 1,
        "success_rate": 1,
    }
    assert entry["metrics"][0]["args"] == {
        "agent": "react (hf:sft)", "low_95": pytest.approx(0.5655, abs=1e-3), "high_95": 1.0
    }  # fmt: skip
    assert "| learning_rate | 1e-05 |" in upload.card
    assert f"eto eval --env {CORRIDOR} --model hf:me/walker" in upload.card
    assert "/scratch" not in upload.card
    of_folder = prepare(trained / "checkpoint", "me/walker", results=[evaluated / "results.json"])
    assert set(of_folder.files) == sent
    assert "| learning_rate | 1e-05 |" in of_folder.card  # the training is beside it


def test_results_of_another_model_are_refused(trained: Path, tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"other weights")
    evaluated = results_of(other, tmp_path / "of-other")
    with pytest.raises(DataError, match=r"has the results of react .*, not of this checkpoint"):
        prepare(trained, "me/walker", results=[evaluated])
    evaluate("expert", CORRIDOR, ("seen",), out=tmp_path / "expert")
    with pytest.raises(DataError, match="has the results of expert"):
        prepare(trained, "me/walker", results=[tmp_path / "expert"])
    # A server does not say which weights it has: its results are taken as they are.
    served = results_of(other, tmp_path / "served", model="openai:me", model_provenance={})
    assert "model-index" in prepare(trained, "me/walker", results=[served]).card


def test_an_adapter_names_its_model_on_the_hub(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "lora")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "/scratch/me/sft"})
    with pytest.raises(DataError, match="LoRA adapter of /scratch/me/sft, which is not on the hub"):
        prepare(folder, "me/lora")
    upload = prepare(folder, "me/lora", base_model="me/sft")
    sent = json.loads(content(upload, "adapter_config.json"))
    assert sent == {"base_model_name_or_path": "me/sft"}
    data = metadata(upload.card)
    assert (data["base_model"], data["library_name"]) == ("me/sft", "peft")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "Qwen/Qwen2.5-0.5B"})
    assert metadata(prepare(folder, "me/lora").card)["base_model"] == "Qwen/Qwen2.5-0.5B"


def test_paths_in_a_checkpoint_are_rewritten(tmp_path: Path) -> None:
    config = {"model_type": "llama", "_name_or_path": "/scratch/me/sft"}
    eto = {"prompts": "/scratch/me/prompts.toml", "template": "plain"}
    upload = prepare(checkpoint(tmp_path / "model", config=config, eto=eto), "me/model")
    assert json.loads(content(upload, "config.json"))["_name_or_path"] == "sft"
    assert json.loads(content(upload, "eto.json"))["prompts"] == "prompts.toml"
    assert b"/usr/bin/env" in content(upload, "tokenizer.json")  # a token


def test_folders_that_cannot_be_pushed(trained: Path, tmp_path: Path) -> None:
    def refused(path: Path, error: type[Exception], message: str, **arguments: Any) -> None:
        with pytest.raises(error, match=message):
            prepare(path, **{"repo": "me/x"} | arguments)

    refused(tmp_path / "nothing", DataNotFoundError, "there is no folder")
    refused(tmp_path, DataNotFoundError, "neither a run nor a checkpoint: name a folder that `eto")
    for repo in ("x", "me/you/x", "me/a b", "me/..", ""):
        refused(trained, UnknownNameError, "no repository .* Write OWNER/NAME", repo=repo)
    (trained / "result.json").rename(tmp_path / "result.json")
    refused(trained, DataError, "is not finished")
    refused(trained / "checkpoint", DataError, "is not finished")
    assert prepare(trained, "me/x", partial=True).kind == "model"
    (tmp_path / "result.json").rename(trained / "result.json")
    (trained / "checkpoint/model.safetensors").rename(trained / "checkpoint/pytorch_model.bin")
    refused(trained, DataError, r"it has no \*\.safetensors")
    (trained / "checkpoint").rename(tmp_path / "elsewhere")
    refused(trained, DataNotFoundError, "a run of kind 'sft', has no checkpoint to push")


def test_options_for_models_are_refused_with_episodes(run: Path) -> None:
    with pytest.raises(DataError, match="are for models"):
        prepare(run, "me/x", base_model="me/sft")


def test_a_credential_stops_the_push(
    run: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "You are in room 1.")
    with pytest.raises(
        DataError, match=r"episodes\.jsonl of .* contains the value of \$SOME_API_K"
    ):
        prepare(run, "me/x")
    (trained / "checkpoint/chat_template.jinja").write_text("hf_" + "a" * 34)
    with pytest.raises(DataError, match=r"chat_template\.jinja of .* contains a key that begins"):
        prepare(trained, "me/x")


def test_a_dry_run_prints_the_card_and_the_files(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing is asked
    main(["push", str(run), "me/walks", "--dry-run"])
    printed = capsys.readouterr().out
    assert printed.startswith("---\n")
    assert "## Results" in printed
    assert "dataset me/walks, not sent" in printed
    assert "episodes.jsonl" in printed


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serve_hub() as server:
        yield server


def push(hub: HubServer | str, *arguments: str, cwd: Path, **variables: str) -> Any:
    url = hub if isinstance(hub, str) else hub.url
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(cwd / "hf")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}
    code = "import tests.toy; from eto_agents.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "push", *arguments],
        env=environment | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_run_arrives_and_is_not_sent_twice(run: Path, hub: HubServer, tmp_path: Path) -> None:
    for _ in range(2):
        done = push(hub, "runs/eval", "me/walks", "--message", "Walk", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"pushed to {hub.url}/datasets/me/walks\n")
    repo = hub.repos["datasets/me/walks"]
    assert [message for message, _ in repo.commits] == ["Walk"]
    os.chdir(tmp_path)
    upload = prepare(Path("runs/eval"), "me/walks")
    assert repo.files == {name: content(upload, name) for name in upload.files}
    assert not repo.is_private


def test_a_model_arrives(trained: Path, hub: HubServer, tmp_path: Path) -> None:
    evaluated = results_of(trained / "checkpoint", tmp_path / "evaluated")
    arguments = (str(trained), "me/walker", "--results", str(evaluated), "--private")
    done = push(hub, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    repo = hub.repos["models/me/walker"]
    assert repo.is_private
    assert repo.files["model.safetensors"] == b"weights"
    assert list(hub.objects.values()) == [b"weights"]  # sent as a large file
    assert b"model-index" in repo.files["README.md"]
    # A second push sends only what has changed.
    write_json(trained / "checkpoint/eto.json", {"prompts": "own"})
    assert push(hub, *arguments, cwd=tmp_path).returncode == 0
    assert [paths for _, paths in repo.commits][1:] == [["README.md", "eto.json"]]


def test_errors_are_one_sentence(run: Path, hub: HubServer, tmp_path: Path) -> None:
    def error_of(**arguments: Any) -> str:
        where = arguments.pop("hub", hub)
        done = push(where, "runs/eval", "me/walks", cwd=tmp_path, **arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("eto: ")
        return str(line)

    assert error_of(HF_TOKEN="") == (
        "eto: you are not logged in to the hub: run `hf auth login`, or set HF_TOKEN"
    )
    assert "(401); log in with `hf auth login`" in error_of(HF_TOKEN="hf_other")
    hub.statuses["/commit/"] = 403
    assert "refused (403); your token may not write to me/walks" in error_of()
    hub.statuses["/commit/"] = 500
    assert "refused (500)" in error_of()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert f"cannot push to {url}: ConnectError: " in error_of(hub=url)
    assert "offline" in error_of(HF_HUB_OFFLINE="1").lower()


def test_private_is_not_public(run: Path, hub: HubServer, tmp_path: Path) -> None:
    assert push(hub, "runs/eval", "me/walks", cwd=tmp_path).returncode == 0
    done = push(hub, "runs/eval", "me/walks", "--private", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "me/walks exists and is public" in done.stderr


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client
def test_a_pushed_checkpoint_plays_with_its_prompts(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_agents.models.checkpoint import load_checkpoint, save_checkpoint
    from tests.agents.training.episodes import episode, nano

    constants = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    made = replace(nano([episode(n) for n in range(3)]), prompts="brief", with_example=False)
    save_checkpoint(made, tmp_path / "model")
    send(prepare(tmp_path / "model", "me/nano"))
    loaded = load_checkpoint("me/nano", device="cpu")
    assert (loaded.template, loaded.prompts, loaded.with_example) == (made.template, "brief", False)
    assert hub.repos["models/me/nano"].files["eto.json"]
