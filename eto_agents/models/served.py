"""`ServedCheckpoint`: a checkpoint of ours behind a server, whose replies can be trained on.

A model explores faster on a server such as vLLM than in the training process. What it writes there
is only worth learning from if it is the model that is trained, and if it reads what the training
encodes. So this model checks, with the tokenizer of the checkpoint and without its weights, that
the server loaded this checkpoint, that it encodes every chat as our renderer does, and that it
returns the sampled tokens; what differs is an error and not a slightly wrong episode.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eto_agents.arguments import checked_arguments
from eto_agents.models.base import Completion, Sampling
from eto_agents.models.checkpoint import read_chat_format
from eto_agents.models.control_tokens import decode
from eto_agents.models.openai import OpenAIModel
from eto_agents.react.chat import encode
from eto_agents.settings import SettingsError
from eto_agents.trajectory import Message
from eto_envs.errors import BackendError


class ServedCheckpoint:
    """A chat model: a server's, with the checks above.

    Attributes:
        name: the server's model.
        provenance: as of the server's model.
        prompts: the prompts that the checkpoint was trained with.
        with_example: whether it was trained with the worked example.
        max_context_tokens: the most tokens of a prompt and its reply, None if not known.
        concurrent: its `generate` may be called from several threads.

    Args:
        folder: the checkpoint.
        server: ``"openai:<model>"``.
        **arguments: further arguments of `OpenAIModel`, such as `base_url`.
    """

    concurrent = True

    def __init__(self, folder: str | Path, server: str, **arguments: Any) -> None:
        """Read the tokenizer, and ask the server which model it has.

        Raises:
            DataNotFoundError: there is no checkpoint in the folder.
            BackendError: the server does not answer, or has another model.
            SettingsError: `server` is not the name of a model behind a server, or an argument has
                the wrong type or is out of range.
            UnknownArgumentError: `OpenAIModel` does not take an argument.
        """
        kind, _, model = server.partition(":")
        if kind != "openai" or not model:
            raise SettingsError(f"explore_with must be openai:MODEL, got {server!r}")
        arguments = checked_arguments(OpenAIModel, arguments, f"model {server!r}", n_given=1)
        self._format = read_chat_format(folder)
        arguments["log_probs"] = True
        arguments["extra_body"] = {
            **(arguments.get("extra_body") or {}),
            "return_token_ids": True,
            # As in a local model, replies contain none but the end of the turn.
            "logit_bias": {str(token): -100 for token in self._format.control_ids},
        }
        self._server = OpenAIModel(model, **arguments)
        self.name = self._server.name
        self.provenance = {"server": self._server.provenance, "checkpoint": str(folder)}
        self.prompts = self._format.prompts
        self.with_example = self._format.with_example
        self.max_context_tokens = self._server.max_context_tokens
        self._lock = threading.Lock()  # tokenizers are not made for several threads
        self._check_model(Path(folder))

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Number of tokens of a chat and the opening of its reply."""
        return len(self._encode(messages))

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Continue each conversation; see `ChatModel.generate`."""
        completions = self._server.generate(conversations, sampling, seeds)
        return [
            self._checked(chat, completion)
            for chat, completion in zip(conversations, completions, strict=True)
        ]

    def _checked(self, chat: Sequence[Message], completion: Completion) -> Completion:
        if completion.error:
            return completion
        if completion.token_ids is None or completion.prompt_token_ids is None:
            return _refused(
                completion,
                "the server does not return token ids (return_token_ids), so that its replies "
                "cannot be trained on: use vLLM",
            )
        if completion.prompt_token_ids != self._encode(chat):
            return _refused(
                completion,
                "the server encodes chats in another way than the training: serve the checkpoint's "
                "own folder, and without --chat-template",
            )
        ids = list(completion.token_ids)
        if ids and ids[-1] in self._format.end_ids:
            ids.pop()
        if not set(ids).isdisjoint((*self._format.control_ids, *self._format.end_ids)):
            return Completion(usage=completion.usage, error="the reply contains a control token")
        with self._lock:
            text = decode(self._format.tokenizer, ids)
            again = self._format.tokenizer.encode(completion.text, add_special_tokens=False)
        # From the next turn on, the server reads the reply as its text is encoded. Where it was
        # sampled as other tokens, the training has to encode the text, too.
        if text != completion.text or ids != list(again):
            return replace(completion, token_ids=None, log_probs=None, token_ends=None)
        return completion

    def _encode(self, chat: Sequence[Message]) -> list[int]:
        with self._lock:
            return encode(chat, self._format.tokenizer, self._format.template, for_reply=True).ids

    def _check_model(self, folder: Path) -> None:
        root = self._server.root()
        if root is None or Path(root).resolve() != folder.resolve():
            found = "does not say which model it has" if root is None else f"has {root}"
            raise BackendError(
                f"the server {found}, but {folder} is to play: start it with `vllm serve {folder}` "
                "and repeat the command"
            )


def _refused(completion: Completion, error: str) -> Completion:
    """No other reply of this server will be better."""
    return Completion(usage=completion.usage, error=error, is_permanent=True)
