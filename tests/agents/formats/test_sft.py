"""Trajectories go into other programs' files and come back as they were, as far as files allow."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from eto_agents.collect import collect
from eto_agents.formats.chats import Chat, chat_of, chats_of, trajectory_of
from eto_agents.formats.folder import write_folder
from eto_agents.formats.sft import (
    SCIENCEWORLD_NUMBERS,
    eto_id,
    our_id,
    read_eto_sft,
    read_messages,
    world_of_chat,
    write_eto_sft,
    write_llama_factory_sft,
    write_messages,
)
from eto_agents.react.context import transcript
from eto_agents.react.prompts import load_prompts
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import Trajectory
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError, UnknownNameError

ENV_IDS = ("ETO-WebShop-v0", "ETO-ALFWorld-v0")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Trajectory]]:
    """Episodes of an expert and of a random agent, whose scores and validity vary."""
    found = {}
    for env_id in ENV_IDS:
        episodes: list[Trajectory] = []
        for policy in ("expert", "random"):
            out = tmp_path_factory.mktemp("collected")
            got = collect(
                policy,
                env_id,
                ("seen",),
                out=out,
                thoughts="full",
                min_score=0.0,
                n_tasks=6,
                env_args={"dataset": "mini"},
            )
            episodes += got.selected[: 6 if policy == "expert" else 3]
        found[env_id] = episodes
    return found


def chats(trajectories: list[Trajectory], source: str = "own", **kwargs: Any) -> list[Chat]:
    return list(chats_of(trajectories, load_prompts(source), **kwargs))


@pytest.mark.parametrize("source", ["own", "brief"])
@pytest.mark.parametrize("env_id", ENV_IDS)
def test_eto_files_come_back(
    env_id: str, source: str, played: dict[str, list[Trajectory]], tmp_path: Path
) -> None:
    written = chats(played[env_id], source)
    path = tmp_path / "x_sft.json"
    assert write_eto_sft(path, written) == 9
    read = read_eto_sft(path, dataset="mini", split="seen")
    assert [c.messages for c in read] == [c.messages for c in written]
    assert [c.task_id for c in read] == [c.task_id for c in written]
    assert [c.score for c in read] == [c.score for c in written]
    assert {c.n_prompt for c in read} == {2}
    for chat, trajectory in zip(read, played[env_id], strict=True):
        world = world_of_chat(chat)
        back = trajectory_of(chat, world)
        prompt = load_prompts(source)[world]
        assert (
            transcript(prompt, back.initial_observation, back.steps, with_example=False)[:-1]
            == chat.messages
        )
        assert [s.action for s in back.steps] == [s.action for s in trajectory.steps]
        assert [s.thought for s in back.steps] == [s.thought for s in trajectory.steps]
        assert (back.env_id, back.dataset, back.split) == (env_id, "mini", "seen")
        assert back.goal == trajectory.goal
        assert (back.score, back.success) == (trajectory.score, trajectory.success)
        observations = [s.observation for s in trajectory.steps]
        assert [s.observation for s in back.steps] == [*observations[:-1], ""]
        if env_id == "ETO-ALFWorld-v0":
            assert back.kind == trajectory.kind
            valid = [s.is_valid for s in trajectory.steps[:-1]]
            assert [s.is_valid for s in back.steps[:-1]] == valid


def test_messages_come_back_whole(played: dict[str, list[Trajectory]], tmp_path: Path) -> None:
    both = [*played["ETO-WebShop-v0"], *played["ETO-ALFWorld-v0"]]
    for with_example in (False, True):
        written = chats(both, with_example=with_example)
        path = tmp_path / f"{with_example}.jsonl"
        assert write_messages(path, written) == 18
        read = read_messages(path)
        assert read == written
        for chat, trajectory in zip(read, both, strict=True):
            back = trajectory_of(chat, world_of_chat(chat))
            for name in ("env_id", "tasks_sha256", "key", "kind", "goal", "policy", "status"):
                assert getattr(back, name) == getattr(trajectory, name)
            assert back.initial_observation == trajectory.initial_observation


def test_llama_factory_gets_its_description(
    played: dict[str, list[Trajectory]], tmp_path: Path
) -> None:
    written = chats(played["ETO-WebShop-v0"])
    for name in ("one", "two"):
        write_llama_factory_sft(tmp_path / f"{name}.json", written)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert list(info) == ["one", "two"]
    assert info["two"] == {
        "file_name": "two.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
    }
    record = json.loads((tmp_path / "two.json").read_text())[0]
    assert [t["from"] for t in record["conversations"]][:4] == ["human", "gpt"] * 2
    assert record["conversations"][-1]["from"] == "gpt"
    assert [c.messages for c in read_eto_sft(tmp_path / "two.json")] == [
        c.messages for c in written
    ]
    (tmp_path / "dataset_info.json").write_text("[]")
    with pytest.raises(CorruptDataError, match=r"dataset_info\.json is not a JSON object"):
        write_llama_factory_sft(tmp_path / "three.json", written)


def test_worked_examples_have_no_place_in_eto_files(
    played: dict[str, list[Trajectory]], tmp_path: Path
) -> None:
    written = chats(played["ETO-WebShop-v0"], with_example=True)
    with pytest.raises(ValueError, match="no room for a worked example"):
        write_eto_sft(tmp_path / "x.json", written)
    assert list(tmp_path.iterdir()) == []


PUBLISHED = [
    {
        "id": 4116,
        "reward": 0.75,
        "conversations": [
            {"from": "human", "value": "You are web shopping."},
            {"from": "gpt", "value": "OK"},
            {
                "from": "human",
                "value": "Observation:\nWebShop [SEP] Instruction: [SEP] i need a lamp [SEP] x",
            },
            {"from": "gpt", "value": "Thought: I look.\nAction: search[lamp]"},
            {"from": "human", "value": "Observation:\nInstruction: [SEP] page"},
            {"from": "gpt", "value": "I forgot the word."},
            {
                "from": "human",
                "value": "Observation: Invalid format. The input must contains 'Action: '",
            },
            {"from": "gpt", "value": "Thought: It fits.\nAction: click[Buy Now]"},
        ],
    },
]


def test_the_published_form_of_webshop(tmp_path: Path) -> None:
    path = tmp_path / "webshop_sft.json"
    path.write_text(json.dumps(PUBLISHED * 2))
    trajectories = write_folder(tmp_path / "run", path, read_eto_sft(path, dataset="full"))
    assert [t.seed for t in trajectories] == [0, 1]  # the same task twice
    first = trajectories[0]
    assert (first.task_id, first.score, first.goal) == ("4116", 0.75, "i need a lamp")
    assert first.initial_observation.startswith("WebShop [SEP]")
    assert [s.action for s in first.steps] == ["search[lamp]", "", "click[Buy Now]"]
    assert [s.is_valid for s in first.steps] == [True, False, True]
    assert [s.task_reward for s in first.steps] == [0.0, 0.0, 0.75]
    assert sum(s.reward for s in first.steps) == first.score
    assert list(TrajectoryStore(tmp_path / "run/episodes.jsonl").read()) == trajectories
    prompt = load_prompts(tmp_path / "run/prompt.toml")["webshop"]
    assert prompt.instruction == "You are web shopping."
    again = transcript(prompt, first.initial_observation, first.steps)[:-1]
    texts = [turn["value"] for turn in PUBLISHED[0]["conversations"]]  # type: ignore[attr-defined]
    texts[2] = texts[2].removeprefix("Observation:\n")
    assert [m["content"] for m in again] == texts
    with pytest.raises(DataError, match="has episodes already"):
        write_folder(tmp_path / "run", path, read_eto_sft(path))


def test_the_published_forms_of_the_others(tmp_path: Path) -> None:
    head = [{"from": "human", "value": "Do."}, {"from": "gpt", "value": "OK"}]
    game = "pick_and_place_simple-Mug-None-Desk-301/trial_T1"
    alfworld = {
        "id": 3,
        "game_file": f"data/json_2.1.1/train/{game}",
        "conversations": [
            *head,
            {"from": "human", "value": "A room.\n\nYour task is to: put a mug in desk."},
            {"from": "gpt", "value": "Thought: t\nAction: look"},
            {"from": "human", "value": "Observation: Nothing happens."},
            {"from": "gpt", "value": "Thought: t\nAction: inventory"},
        ],
    }
    science = {
        "id": "3_27",
        "conversations": [
            *head,
            {"from": "human", "value": "Your task is to melt ice."},
            {"from": "gpt", "value": "Thought: t\nAction: wait"},
        ],
    }
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps([alfworld, science]))
    one, two = write_folder(tmp_path / "run", path, read_eto_sft(path))
    assert (one.task_id, one.dataset, one.split) == (game, "2.1.1", "train")
    assert (one.kind, one.goal) == ("pick_and_place_simple", "put a mug in desk.")
    assert [s.is_valid for s in one.steps] == [False, True]
    assert (two.task_id, two.kind, two.goal) == ("melt/27", "melt", "Your task is to melt ice.")
    assert (one.score, two.score) == (1.0, 1.0)
    imported = json.loads((tmp_path / "run/run.json").read_text())["facts"]["imported"]
    assert (imported["n_without_score"], imported["score_if_unknown"]) == (2, 1.0)
    assert not (tmp_path / "run/prompt.toml").exists()  # they are of two worlds


@pytest.mark.parametrize("task_id", ["17", "boil/3", "measure-melting-point-known-substance/0"])
def test_ids_translate_both_ways(task_id: str) -> None:
    world = "scienceworld" if "/" in task_id else "webshop"
    assert our_id(eto_id(task_id), world) == task_id
    assert eto_id("boil/3") == "0_3"
    assert eto_id("pick-A/trial_1") == "pick-A/trial_1"


@pytest.mark.data
def test_numbers_of_task_types_are_etos(shared_data: Path) -> None:
    from eto_envs.scienceworld.tasks import TASK_TYPES, current_name

    path = shared_data / "mirror/eto/eval_agent/data/sciworld/taskname2id.json"
    theirs = {number: current_name(name) for name, number in json.loads(path.read_text()).items()}
    assert {i: name for i, name in enumerate(SCIENCEWORLD_NUMBERS) if name} == theirs
    assert set(theirs.values()) <= set(TASK_TYPES)


@pytest.mark.data
def test_recorded_conversations_come_back(shared_data: Path, tmp_path: Path) -> None:
    """889 recorded episodes in the from/value form, with ETO's prompt and the word "Action:"."""
    head = [{"from": "human", "value": "Interact."}, {"from": "gpt", "value": "OK"}]
    entries = []
    with gzip.open(shared_data / "alfworld/gt_traj.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            first, *turns = record["conversation"]
            if turns[-1]["from"] == "human":
                turns.pop()
            room = first["value"].split("\n\n", 1)[1]
            said = [
                {"from": "gpt", "value": f"Action: {t['value']}"}
                if t["from"] == "gpt"
                else {"from": "human", "value": f"Observation: {t['value']}"}
                for t in turns
            ]
            game_file = "data/" + record["game"].removesuffix("/game.tw-pddl")
            chat = [*head, {"from": "human", "value": room}, *said]
            entries.append({"id": number, "game_file": game_file, "conversations": chat})
    path = tmp_path / "alfworld_sft.json"
    path.write_text(json.dumps(entries))
    trajectories = write_folder(tmp_path / "run", path, read_eto_sft(path))
    assert len(trajectories) == len(entries) == 889
    assert all(t.task_id in e["game_file"] for t, e in zip(trajectories, entries, strict=True))
    kinds = {t.kind for t in trajectories}
    assert kinds <= {
        "look_at_obj_in_light",
        "pick_and_place_simple",
        "pick_clean_then_place_in_recep",
        "pick_cool_then_place_in_recep",
        "pick_heat_then_place_in_recep",
        "pick_two_obj_and_place",
    }
    assert len(kinds) > 4
    assert all(t.goal and t.steps for t in trajectories)
    prompt = load_prompts(tmp_path / "run/prompt.toml")
    write_eto_sft(tmp_path / "again.json", chats_of(trajectories, prompt))
    again = json.loads((tmp_path / "again.json").read_text())
    for entry, back in zip(entries, again, strict=True):
        assert back["conversations"] == entry["conversations"]
        assert back["game_file"] == entry["game_file"]


GOOD = PUBLISHED[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no entries"),
        ("[]", "has no entries"),
        ("[{]", "not JSON"),
        (json.dumps(GOOD) + "\n{x", "line 2: not JSON"),
        ("[3]", "entry 1: not a JSON object"),
        (json.dumps([GOOD, {"id": 1}]), "entry 2: 'conversations' is no list of messages"),
        (json.dumps([GOOD | {"conversations": [{"from": "cat", "value": "x"}]}]), "entry 1: .*cat"),
        (json.dumps([GOOD | {"conversations": [{"from": "gpt"}]}]), "entry 1: .*no message"),
        (json.dumps([GOOD | {"conversations": GOOD["conversations"][:3]}]), "entry 1: no task"),  # type: ignore[index]
        (json.dumps([GOOD | {"reward": "high"}]), "entry 1: 'reward' is 'high'"),
        (json.dumps([GOOD | {"reward": 70}]), "entry 1: 'reward' is 70"),
        (json.dumps([GOOD | {"id": None}]), "entry 1: 'id' is None"),
        ("version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    ],
)
def test_malformed_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad_sft.json"
    path.write_text(text)
    with pytest.raises(CorruptDataError, match=rf"bad_sft\.json.*{message}"):
        read_eto_sft(path)


def test_other_mistakes_are_named(tmp_path: Path, played: dict[str, list[Trajectory]]) -> None:
    path = tmp_path / "bad.jsonl"
    with pytest.raises(DataNotFoundError, match="there is no file"):
        read_messages(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptDataError, match="is not UTF-8 text"):
        read_messages(path)
    good = chats(played["ETO-WebShop-v0"])[:1]
    write_messages(path, good)
    line = json.loads(path.read_text())
    for key, value in (("n_prompt", None), ("n_prompt", 99), ("task_id", 3), ("seed", "0")):
        path.write_text(json.dumps(line) + "\n" + json.dumps(line | {key: value}))
        with pytest.raises(CorruptDataError, match=rf"bad\.jsonl, line 2: '{key}' is"):
            read_messages(path)
    path.write_text(json.dumps(line | {"status": "asleep"}))
    with pytest.raises(CorruptDataError, match=r"entry 1: unknown status 'asleep'"):
        write_folder(tmp_path / "run", path, read_messages(path))
    path.write_text(json.dumps({k: v for k, v in line.items() if k != "world"}))
    with pytest.raises(UnknownNameError, match="no world stated for task"):
        write_folder(tmp_path / "run", path, read_messages(path))
    unclear = [{"id": "x", "conversations": PUBLISHED[0]["conversations"][:2] * 2}]  # type: ignore[index,operator]
    path.write_text(json.dumps(unclear))
    with pytest.raises(UnknownNameError, match="Give world="):
        read_eto_sft(path)
    with pytest.raises(UnknownNameError, match="no world 'maze'"):
        read_eto_sft(path, world="maze")
    empty = dataclasses.replace(played["ETO-WebShop-v0"][0], steps=[])
    with pytest.raises(ValueError, match="has no steps"):
        chat_of(empty, load_prompts()["webshop"])
    assert not (tmp_path / "run").exists()
