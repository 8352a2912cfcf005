"""`ServedCheckpoint`: a checkpoint of ours behind a server, whose replies can be trained on.

A model explores faster on a server such as vLLM than in the training process. What it writes there
is only worth learning from if it is the model that is trained, and if it reads what the training
encodes. So this model checks that the server loaded this checkpoint, and encodes chats itself, with
the tokenizer of the checkpoint and without its weights: the server gets token ids and returns those
that it sampled. Its own chat template and its parser of tool calls are not used.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eto_agents.arguments import checked_arguments
from eto_agents.models.base import Completion, Sampling, find_stop
from eto_agents.models.chat_encoder import ChatEncoder
from eto_agents.models.checkpoint import read_chat_format
from eto_agents.models.control_tokens import decode, n_tokens_before
from eto_agents.models.openai import OpenAIModel
from eto_agents.react.chat import check_has_tools
from eto_agents.settings import SettingsError
from eto_agents.trajectory import Message, Tool
from eto_envs.errors import BackendError


class ServedCheckpoint:
    """A chat model: a server's, with the checks above.

    Attributes:
        name: the server's model.
        provenance: as of the server's model.
        prompts: the prompts that the checkpoint was trained with.
        with_example: whether it was trained with the worked example.
        protocol: the protocol it was trained with; None if that is not known.
        base_url: the server's address, up to ``/v1``.
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
        self._encoder = ChatEncoder(
            self._format.tokenizer, self._format.template, self._format.end_ids
        )
        self._server = OpenAIModel(model, **arguments)
        self.name = self._server.name
        self.provenance = {"server": self._server.provenance, "checkpoint": str(folder)}
        self.prompts = self._format.prompts
        self.with_example = self._format.with_example
        self.protocol = self._format.protocol
        self.base_url = self._server.base_url
        self.max_context_tokens = self._server.max_context_tokens
        self._lock = threading.Lock()  # tokenizers are not made for several threads
        self._check_model(Path(folder))

    def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        """Number of tokens of a chat and the opening of its reply."""
        with self._lock:
            return len(self._encoder.encode(messages, tools))

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        *,
        tools: Sequence[Tool] = (),
    ) -> list[Completion]:
        """Continue each conversation; see `ChatModel.generate`.

        Raises:
            UnknownNameError: there are tools, and the template cannot render them.
        """
        if tools:
            check_has_tools(self._format.template)
        with self._lock:
            prompts = [self._encoder.encode(chat, tools) for chat in conversations]
        ids = self._format.control_ids_with_tools if tools else self._format.control_ids
        # As in a local model, replies contain no control token but the end of the turn.
        biases = {str(token): -100 for token in ids}
        completions = self._server.continue_tokens(
            prompts, sampling, seeds, more={"logit_bias": biases}
        )
        return [
            self._read(chat, completion, sampling, tools)
            for chat, completion in zip(conversations, completions, strict=True)
        ]

    def _read(
        self,
        chat: Sequence[Message],
        sampled: Completion,
        sampling: Sampling,
        tools: Sequence[Tool],
    ) -> Completion:
        if sampled.error or sampled.token_ids is None or sampled.log_probs is None:
            return sampled
        tokenizer, ends = self._format.tokenizer, self._format.end_ids
        ids, log_probs = sampled.token_ids, sampled.log_probs
        has_end = bool(ids) and ids[-1] in ends
        with self._lock:
            text = decode(tokenizer, ids[:-1] if has_end else ids)
            cut = find_stop(text, sampling.stop)
            if cut is not None:
                n_whole = n_tokens_before(tokenizer, ids, cut)
                ids, log_probs, text = ids[:n_whole], log_probs[:n_whole], text[:cut]
            reason = "stop" if has_end or cut is not None else sampled.finish_reason
            reply = replace(
                sampled, text=text, token_ids=ids, log_probs=log_probs, finish_reason=reason
            )
            return self._encoder.read(chat, reply, tools)

    def _check_model(self, folder: Path) -> None:
        root = self._server.root()
        if root is None or Path(root).resolve() != folder.resolve():
            found = "does not say which model it has" if root is None else f"has {root}"
            raise BackendError(
                f"the server {found}, but {folder} is to play: start it with `vllm serve {folder}` "
                "and repeat the command"
            )
