"""A vLLM server that plays for a method whose weights change after every update: PPO and GRPO.

Weights go to the server with TRL's client, over NCCL. GRPO's trainer is TRL's, which sends them
itself; PPO sends them with `weight_sender`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from eto_agents.processes import is_main_process
from eto_agents.settings import PlayingOnServer, SettingsError
from eto_agents.training.exploration import serving

if TYPE_CHECKING:
    from eto_agents.models.checkpoint import Checkpoint
    from eto_agents.models.served import ServedCheckpoint


def open_server(
    model: str | Path, checkpoint: Checkpoint, settings: PlayingOnServer
) -> ServedCheckpoint | None:
    """The server that plays; None if this process does.

    Args:
        model: the initial policy, which the server has to have loaded.
        checkpoint: that policy, loaded here.
        settings: name the server.

    Raises:
        SettingsError: TRL cannot send the weights to a server from here.
        BackendError: the server does not answer, or has another model.
    """
    if settings.explore_with is None:
        return None
    check_weights_can_be_sent(checkpoint.model.device.type)
    return serving(model, settings.explore_with, settings)


def check_weights_can_be_sent(device: str) -> None:
    """Check that TRL's client works here.

    Args:
        device: the type of the model's device.

    Raises:
        SettingsError: it does not.
    """
    if device != "cuda":
        raise SettingsError(
            f"explore_with needs a GPU here, and the model is on {device!r}: TRL sends the weights "
            "to the server over NCCL. Without explore_with, this process plays"
        )
    if importlib.util.find_spec("vllm") is None:
        raise SettingsError(
            "explore_with needs vLLM beside the trainer, too, which sends the weights to the "
            "server with it: pip install 'trl[vllm]'"
        )


def address(served: ServedCheckpoint) -> str:
    """The server's address as TRL wants it, without ``/v1``."""
    return served.base_url.removesuffix("/v1")


def weight_sender(served: ServedCheckpoint, device: Any) -> Callable[[Any], None]:
    """Connect to a server's weights.

    Args:
        served: the server.
        device: the device of the model whose weights will be sent.

    Returns:
        A function that sends a model's weights. Every process of the launch has to call it; the
        main one sends, and the others wait.
    """
    client: Any = None
    if is_main_process():
        from trl.generation.vllm_client import VLLMClient

        client = VLLMClient(base_url=address(served))
        client.init_communicator(device=device)

    def send(model: Any) -> None:
        if client is not None:
            client.update_model_params(model)
            client.reset_prefix_cache()
        PartialState().wait_for_everyone()

    return send
