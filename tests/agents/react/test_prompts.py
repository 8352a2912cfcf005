"""The library's own prompts show real episodes; published prompts are used unchanged."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium as gym
import pytest

import eto_envs
from eto_agents.react.parse import NO_ACTION, Parsed
from eto_agents.react.prompts import (
    Prompt,
    load_prompts,
    parse_prompt,
    prompt_key,
)
from eto_agents.worlds import all_worlds, find_world
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.files import read_toml
from tests.conftest import read_jsonl_gz

PROMPTS = Path(eto_envs.__file__).parents[1] / "eto_agents/worlds/prompts"
ENVIRONMENTS = {"webshop": "WebShop", "alfworld": "ALFWorld", "scienceworld": "ScienceWorld"}

WORLDS = [variant for world in all_worlds() for variant in world.variants]


@pytest.mark.parametrize("world", WORLDS)
def test_own_prompts_are_chats_in_the_worlds_format(world: str) -> None:
    prompt = load_prompts()[world]
    assert prompt.world == world
    messages = [*prompt.head(with_example=True), prompt.task("the task", with_example=True)]
    assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
    assert len(prompt.example) >= 8
    assert all(reply.action and reply.thought and not reply.error for reply in _replies(prompt))
    for message in prompt.example[2::2]:
        assert message["content"].startswith(find_world(world).format.prefix)
    assert messages[-1]["content"] == f"{prompt.task_intro}\n\nthe task"
    assert len(prompt.sha256) == 64


@pytest.mark.parametrize("world", WORLDS)
def test_brief_prompts_are_one_line_that_names_the_actions(world: str) -> None:
    brief, own = load_prompts("brief")[world], load_prompts()[world]
    assert brief.world == world
    assert brief.format == own.format
    assert "\n" not in brief.instruction
    assert len(brief.instruction) < 140 < len(own.instruction)
    chat = [*brief.head(with_example=True), brief.task("the task", with_example=True)]
    assert [m["content"] for m in chat] == [brief.instruction, "OK", "the task"]
    words = {parsed.action.split("[")[0].split()[0] for parsed in _replies(own)}
    named = brief.instruction.lower().replace("[", " ").replace(",", " ").replace(":", " ").split()
    assert words <= set(named)  # every kind of action in the worked example


def _replies(prompt: Prompt) -> list[Parsed]:
    return [prompt.format.parse(m["content"]) for m in prompt.example[1::2]]


def test_without_the_example_nothing_mentions_it() -> None:
    prompt = load_prompts()["webshop"]
    first = f"{prompt.instruction}\n\n{prompt.reply_format}"
    assert [m["content"] for m in prompt.head(with_example=False)] == [first, "OK"]
    assert prompt.task("x", with_example=False) == {"role": "user", "content": "x"}


def open_env(world: str, dataset: str) -> gym.Env[str, str]:
    family, _, _ = world.partition("-")
    env_id = f"ETO-{ENVIRONMENTS[family]}-v0"
    if env_id not in eto_envs.registration.IDS:
        pytest.skip(f"{env_id} is not there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that the dataset is not the official one
        try:
            return gym.make(env_id, dataset=dataset, split="train")
        except (DataNotFoundError, UnknownNameError) as error:
            pytest.skip(str(error))


@pytest.mark.parametrize(
    ("world", "dataset"),
    [("webshop", "mini"), ("alfworld-2.1.1", "mini"), ("alfworld-2.1.2", "mini-2.1.2")],
)
def test_examples_are_real_episodes_of_train(world: str, dataset: str) -> None:
    record = read_toml(PROMPTS / f"{world}.toml")["example"]
    env = open_env(world, dataset)
    observation, info = env.reset(options={"task": record["task"]})
    assert prompt_key(info) == world
    assert observation == record["first"]
    for step in record["steps"]:
        observation, _, terminated, _, info = env.step(step["action"])
        assert info["is_valid_action"]
        assert observation == step.get("observation", observation)
    assert terminated
    assert info["score"] == 1.0
    env.reset(options={"task": record["task"]})
    _, reward, terminated, _, info = env.step(NO_ACTION)
    assert (reward, terminated, info["is_valid_action"]) == (0.0, False, False)


def test_the_two_variants_of_alfworld_differ_as_the_games_do() -> None:
    old, new = (load_prompts()[f"alfworld-{release}"] for release in ("2.1.1", "2.1.2"))
    assert "put OBJECT in/on PLACE" in old.instruction
    assert "move OBJECT to PLACE" in new.instruction
    assert "put apple" in old.example[-1]["content"]
    assert "move apple" in new.example[-1]["content"]
    assert "toggle" not in old.instruction + new.instruction


@pytest.mark.data
def test_the_scienceworld_example_has_the_simulators_texts(shared_data: Path) -> None:
    prompt = load_prompts()["scienceworld"]
    episodes = read_jsonl_gz(shared_data / "scienceworld/golden/etosim.jsonl.gz")
    episode = next(e for e in episodes if (e["task"], e["variation"]) == ("find-animal", 0))
    assert episode["task_description"] == prompt.example[0]["content"].split("\n\n")[-1]
    recorded = {f"Observation: {step['observation']}" for e in episodes for step in e["steps"]}
    observations = {message["content"] for message in prompt.example[2::2]}
    assert len(observations & recorded) >= 3


@pytest.mark.data
def test_published_prompts(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eto_envs import data

    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="eto data download eto-prompts"):
        load_prompts("published")
    monkeypatch.setenv("ETO_DATA_MIRROR", str(shared_data / "mirror"))
    data.download("eto-prompts")
    prompts = load_prompts("published")
    assert set(prompts) == {"webshop", "alfworld-2.1.1", "scienceworld"}
    folder = shared_data / "mirror/eto/eval_agent/prompt"
    for world, name in (("webshop", "webshop"), ("scienceworld", "sciworld")):
        text = (folder / f"instructions/{name}_inst.txt").read_text(encoding="utf-8")
        assert prompts[world].instruction == text
    for prompt in prompts.values():
        assert len(prompt.example) % 2 == 0
        for message in prompt.example[1::2]:
            assert message["role"] == "assistant"
            assert prompt.format.parse(message["content"]).action
        for message in prompt.example[2::2]:
            assert message["content"].startswith(prompt.format.prefix)
        assert prompt.task("x", with_example=True)["content"] == "x"


@pytest.mark.data
def test_own_prompts_share_no_text_with_published_ones(shared_data: Path) -> None:
    folder = shared_data / "mirror/eto/eval_agent/prompt"
    published = "\n".join(p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*.*")))
    theirs = published.lower().split()
    runs = {tuple(theirs[i : i + 8]) for i in range(len(theirs))}
    assert len(runs) > 500
    for world, prompt in load_prompts().items():
        for text in (prompt.instruction, *(m["content"] for m in prompt.example[1::2])):
            ours = text.lower().split()
            shared = [
                " ".join(ours[i : i + 8])
                for i in range(len(ours))
                if tuple(ours[i : i + 8]) in runs
            ]
            assert shared == [], world


def test_different_prompts_have_different_hashes() -> None:
    prompts = [*load_prompts().values(), *load_prompts("brief").values()]
    assert len({prompt.sha256 for prompt in prompts}) == 2 * len(WORLDS)
    assert Prompt("w", "a").sha256 != Prompt("w", "b").sha256
    assert Prompt("w", "a").sha256 == Prompt("w", "a").sha256


def test_prompts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "maze.toml"
    path.write_text('world = "maze"\ninstruction = "Walk."\n', encoding="utf-8")
    assert load_prompts(path) == {"maze": Prompt("maze", "Walk.")}
    with pytest.raises(DataNotFoundError, match=r"there are no prompts at 'nowhere\.toml'"):
        load_prompts("nowhere.toml")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "world = 'x'",
        "[[",
        "world = 'x'\ninstruction = 'i'\nexample = 3",
        "world = 'x'\ninstruction = 'i'\n[example]\nfirst = 'f'\n"
        "[[example.steps]]\nthought = 't'\naction = 'a'\nobservation = 'o'",
    ],
)
def test_errors_name_the_bad_file(text: str) -> None:
    with pytest.raises(CorruptDataError, match=r"here\.toml is not (a prompt|valid TOML)"):
        parse_prompt(text, "here.toml")


@pytest.mark.parametrize(
    ("info", "world"),
    [
        ({"world": "webshop"}, "webshop"),
        ({"world": "scienceworld"}, "scienceworld"),
        ({"world": "alfworld", "grammar": "2.1.2"}, "alfworld-2.1.2"),
        ({"world": "dial", "task_id": "17", "grammar": "2.1.2"}, "dial"),
        ({"world": "dial", "task_id": "boil/3"}, "dial"),
    ],
)
def test_the_world_is_the_one_that_the_environment_states(info: dict[str, str], world: str) -> None:
    assert prompt_key(info) == world
