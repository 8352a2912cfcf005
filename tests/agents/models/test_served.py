"""A checkpoint behind a server: its replies are those that can be trained on, or errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from eto_agents.models.base import Sampling
from eto_agents.models.checkpoint import load_checkpoint, read_chat_format, save_checkpoint
from eto_agents.models.served import ServedCheckpoint
from eto_agents.react.tools import ACT
from eto_agents.rollout import AgentFailedError
from eto_agents.settings import DPO, ETO, SettingsError
from eto_agents.training.episodes import sample_of
from eto_agents.training.exploration import explore
from eto_agents.training.task_splits import tasks_of
from eto_agents.trajectory import Message, Trajectory
from eto_envs.errors import BackendError, DataNotFoundError
from tests.agents.fake_vllm import FakeVLLM
from tests.agents.training.worlds import BANDIT, WORLD, undecided

pytestmark = pytest.mark.torch

SETTINGS = ETO(
    env=BANDIT, world=WORLD, temperature=1.0, max_new_tokens=6, n_envs=8, dpo=DPO(device="cpu")
)
CHAT: list[Message] = [{"role": "user", "content": "a or b?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability."""
    folder = tmp_path_factory.mktemp("served")
    save_checkpoint(undecided(folder), folder / "model")
    return folder / "model"


@pytest.fixture
def server(folder: Path) -> Iterator[FakeVLLM]:
    with FakeVLLM(folder) as server:
        yield server


def served(server: FakeVLLM, folder: Path, **arguments: Any) -> ServedCheckpoint:
    return ServedCheckpoint(folder, "openai:agent", base_url=server.url, **arguments)


def explored(folder: Path, out: Path, server: FakeVLLM | None) -> list[Trajectory]:
    settings = SETTINGS
    if server is not None:
        settings = dataclasses.replace(
            settings, explore_with="openai:agent", explore_args=(f"base_url={server.url}",)
        )
    return explore(folder, tasks_of(settings.env, "train", settings.env_args)[:4], settings, out)


def test_exploring_on_a_server_gives_episodes_that_can_be_trained_on(
    server: FakeVLLM, folder: Path, tmp_path: Path
) -> None:
    episodes = explored(folder, tmp_path / "served", server)
    assert {episode.status for episode in episodes} <= {"completed", "truncated"}
    checkpoint = load_checkpoint(folder, device="cpu")
    for episode in episodes:
        sample = sample_of(episode, checkpoint)
        assert sum(sample.mask) == sum(len(step.token_ids or ()) for step in episode.steps) > 0
    body = server.bodies[0]
    controls = read_chat_format(folder).control_ids
    assert body["logit_bias"] == {str(token): -100 for token in controls}
    # What is complete is read without the server.
    n_requests = len(server.bodies)
    assert explored(folder, tmp_path / "served", None) == episodes
    assert len(server.bodies) == n_requests


def test_replies_keep_the_tokens_that_they_were_sampled_as(server: FakeVLLM, folder: Path) -> None:
    model = served(server, folder)
    letters = model._format.tokenizer.convert_tokens_to_ids(list("Action"))
    end = model._format.end_ids[0]
    answer = server.answer

    def in_letters(path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = answer(path, body)
        reply["choices"][0]["token_ids"] = [*letters, end]
        reply["choices"][0]["logprobs"]["token_logprobs"] = [-1.0] * 7
        return reply

    server.answer = in_letters  # type: ignore[method-assign]
    [done] = model.generate([CHAT], Sampling(max_tokens=8))
    assert (done.text, done.token_ids, done.error) == ("Action", [*letters, end], "")
    assert done.log_probs == [-1.0] * 7
    assert model._format.tokenizer.encode("Action", add_special_tokens=False) != letters
    # In the next turn, the server reads them again.
    model.generate([[*CHAT, done.message, *CHAT]], Sampling(max_tokens=8))
    first, second = (body["prompt"] for body in server.bodies)
    assert second[: len(first) + 7] == [*first, *letters, end]


def test_a_reply_ends_before_a_stop(server: FakeVLLM, folder: Path) -> None:
    model = served(server, folder)
    [whole] = model.generate([CHAT], Sampling(max_tokens=6))
    stop = whole.text[-1]
    [cut] = model.generate([CHAT], Sampling(max_tokens=6, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert whole.token_ids is not None
    assert cut.token_ids is not None
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) == len(cut.log_probs or ())


def test_a_checkpoint_that_calls_tools(tmp_path: Path) -> None:
    save_checkpoint(undecided(tmp_path, protocol="tool"), tmp_path / "model")
    settings = dataclasses.replace(SETTINGS, max_new_tokens=40)
    tasks = tasks_of(settings.env, "train", settings.env_args)[:4]
    with FakeVLLM(tmp_path / "model") as server:
        arguments = (f"base_url={server.url}",)
        settings = dataclasses.replace(
            settings, explore_with="openai:agent", explore_args=arguments
        )
        episodes = explore(tmp_path / "model", tasks, settings, tmp_path / "out")
    checkpoint = load_checkpoint(tmp_path / "model", device="cpu")
    assert any(episode.score for episode in episodes)
    for episode in episodes:
        assert episode.tools == [ACT]
        sample = sample_of(episode, checkpoint)
        assert sample.with_tools
        assert sum(sample.mask) == sum(len(step.token_ids or ()) for step in episode.steps) > 0


def test_a_server_without_token_ids_is_an_error(
    server: FakeVLLM, folder: Path, tmp_path: Path
) -> None:
    server.tells_ids = False
    with pytest.raises(AgentFailedError, match="return_token_ids"):
        explored(folder, tmp_path, server)


def test_another_model_is_refused(server: FakeVLLM, folder: Path, tmp_path: Path) -> None:
    server.root = str(tmp_path)
    with pytest.raises(BackendError, match=f"vllm serve {folder}"):
        served(server, folder)
    server.root = None
    with pytest.raises(BackendError, match="does not say"):
        served(server, folder)
    with pytest.raises(BackendError, match=r"no model 'other'.*'agent'"):
        ServedCheckpoint(folder, "openai:other", base_url=server.url)
    with pytest.raises(SettingsError, match="openai:MODEL"):
        ServedCheckpoint(folder, "hf:agent")
    with pytest.raises(DataNotFoundError, match="no checkpoint"):
        ServedCheckpoint(tmp_path, "openai:agent", base_url=server.url)


def test_a_server_that_is_down(folder: Path) -> None:
    with FakeVLLM(folder) as server:
        pass
    with pytest.raises(BackendError, match="Connection"):
        ServedCheckpoint(folder, "openai:agent", base_url=server.url)
