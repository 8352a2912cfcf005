"""PPO and GRPO whose episodes a vLLM server plays, with weights that TRL's client sends.

The server is a fake that speaks vLLM's protocol over HTTP. TRL's client is the real one, but for
the transfer over NCCL, which needs GPUs: the tensors go to the fake through a queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch

pytest.importorskip("openai")
pytest.importorskip("trl.generation.vllm_client", reason="this TRL has another client")

from trl.generation import vllm_client as client

import eto_agents.models.local.model as local
from eto_agents.models.checkpoint import save_checkpoint
from eto_agents.settings import GRPO, PPO, SettingsError
from eto_agents.training import playing_server as module
from eto_agents.training.grpo import grpo
from eto_agents.training.ppo import ppo
from eto_envs.errors import BackendError
from tests.agents.fake_vllm import FakeVLLM
from tests.agents.training.test_grpo import QUICK, metrics
from tests.agents.training.test_ppo import QUICK as QUICK_PPO
from tests.agents.training.worlds import undecided

SYNC = [
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
]
"""The requests by which a server gets new weights."""

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You are using 'rollout_func'"),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says a and b with equal probability, on disk."""
    folder = tmp_path_factory.mktemp("start")
    save_checkpoint(undecided(folder), folder / "start")
    return folder / "start"


@pytest.fixture
def server(start: Path) -> Iterator[FakeVLLM]:
    with FakeVLLM(start) as server:
        yield server


@pytest.fixture
def without_nccl(server: FakeVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TRL imports from vLLM for the transfer, and its refusal of CPUs, replaced."""

    class Engine:
        @staticmethod
        def trainer_send_weights(iterator: Any, trainer_args: Any) -> None:
            server.tensors.put({name: tensor.detach().clone() for name, tensor in iterator})

    for place in ("vllm_client", "vllm_generation"):
        monkeypatch.setattr(f"trl.generation.{place}.is_vllm_available", lambda *_, **__: True)
    monkeypatch.setattr(client, "_HAS_STATEFUL_TRAINER_ENGINE", False, raising=False)
    # TRL 1.14 also knows a vLLM without a start and an end of an update.
    monkeypatch.setattr(client, "_HAS_WEIGHT_UPDATE_LIFECYCLE", True, raising=False)
    monkeypatch.setattr(client, "NCCLWeightTransferEngine", Engine, raising=False)
    monkeypatch.setattr(client, "NCCLTrainerSendWeightsArgs", SimpleNamespace, raising=False)
    monkeypatch.setattr(client.VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(module, "check_weights_can_be_sent", lambda device: None)


S = TypeVar("S", GRPO, PPO)


def on(server: FakeVLLM, settings: S) -> S:
    return replace(settings, explore_with="openai:agent", explore_args=(f"base_url={server.url}",))


@pytest.fixture
def server_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let local models use the seeds of a server, which are shorter."""
    sample = local.sample_replies

    def with_seeds_of_requests(*args: Any, **named: Any) -> Any:
        *before, seeds, vocabulary = args
        return sample(*before, [seed % 2**31 for seed in seeds], vocabulary, **named)

    monkeypatch.setattr(local, "sample_replies", with_seeds_of_requests)


@pytest.mark.usefixtures("without_nccl")
@pytest.mark.usefixtures("server_seeds")
def test_grpo_is_the_same_whoever_plays(server: FakeVLLM, start: Path, tmp_path: Path) -> None:
    n = 5
    settings = replace(QUICK, n_updates=n, seed=1)
    grpo(start, on(server, settings), out=tmp_path / "served")
    grpo(start, settings, out=tmp_path / "local")
    served, alone = metrics(tmp_path / "served"), metrics(tmp_path / "local")
    assert len(served) == n
    for ours, theirs in zip(served, alone, strict=True):
        assert ours["score"] == theirs["score"]
        assert ours["completions/mean_length"] == theirs["completions/mean_length"]
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.02)
        # TRL compares the log-probabilities of what was sampled with those that its model computes.
        # They differ by the control tokens, which are never sampled; with old weights they would
        # differ by far more.
        assert ours["sampling/sampling_logp_difference/max"] < 0.02
    assert len(server.bodies) >= n * settings.n_episodes
    assert server.paths == SYNC * n


@pytest.mark.usefixtures("without_nccl", "server_seeds")
def test_ppo_learns_from_what_a_server_plays(server: FakeVLLM, start: Path, tmp_path: Path) -> None:
    n = 4
    settings = replace(QUICK_PPO, n_updates=n, seed=1)
    ppo(start, on(server, settings), out=tmp_path / "served")
    ppo(start, settings, out=tmp_path / "local")
    served, alone = metrics(tmp_path / "served"), metrics(tmp_path / "local")
    assert len(served) == n
    # Later updates differ: episodes end in another order, and so are in other mini-batches.
    assert served[0]["score"] == pytest.approx(alone[0]["score"])
    # With old weights, the log-probabilities would differ from those that training computes.
    assert max(update["sampling_gap"] for update in served) < 1e-5
    assert server.paths == SYNC * (n + 1)  # once more before the first update


@pytest.mark.usefixtures("without_nccl")
def test_another_model_is_refused(server: FakeVLLM, start: Path, tmp_path: Path) -> None:
    server.root = str(tmp_path)
    with pytest.raises(BackendError, match=f"vllm serve {start}"):
        grpo(start, on(server, QUICK), out=tmp_path / "out")


def test_weights_are_sent_from_a_gpu_only(
    server: FakeVLLM, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=r"needs a GPU.*NCCL"):
        grpo(start, on(server, QUICK), out=tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"trl\[vllm\]"):
        module.check_weights_can_be_sent("cuda")


def test_trl_itself_refuses_cpus(server: FakeVLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for our refusal; if this fails, it can go."""
    monkeypatch.setattr(client, "is_vllm_available", lambda *_, **__: True)
    monkeypatch.setattr(client, "get_ip", lambda: "127.0.0.1", raising=False)
    monkeypatch.setattr(client.VLLMClient, "get_world_size", lambda self: 1)
    connected = client.VLLMClient(base_url=server.url.removesuffix("/v1"))
    with pytest.raises(NotImplementedError, match="CUDA"):
        connected.init_communicator(device=torch.device("cpu"))
