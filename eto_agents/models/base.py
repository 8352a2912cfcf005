"""`ChatModel`: the interface of language models, and how one is loaded by name.

A model continues many conversations in one call. A failure in one of them is that completion's
`error`, never an exception and never an empty text that could pass for a reply. Whether a model or
a server honours stop texts makes no difference: `complete` ends every reply at the first one.
"""

from __future__ import annotations

import importlib
import math
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from eto_agents.arguments import checked_arguments
from eto_agents.react.parse import without_reasoning
from eto_agents.settings import SettingsError
from eto_agents.trajectory import Message, Tool, ToolCall
from eto_envs.errors import UnknownNameError

MODELS: Mapping[str, str] = {
    "hf": "eto_agents.models.checkpoint:load_local_model",
    "openai": "eto_agents.models.openai:OpenAIModel",
    "scripted": "eto_agents.models.scripted:ScriptedModel",
}
"""What may precede the colon in a model's name, such as ``"openai:gpt-4o-mini"``."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are sampled.

    Attributes:
        temperature: at least 0, which is greedy decoding.
        top_p: tokens are drawn from the likeliest that have this probability together, in (0, 1].
        max_tokens: the most tokens of a completion.
        stop: texts that end a completion; they are not part of it.
    """

    temperature: float = 0.0  # ETO evaluates greedily
    top_p: float = 1.0
    max_tokens: int = 512
    # `LMAgent.stop_words` of ETO's harness: the model must not write observations itself.
    stop: tuple[str, ...] = ("\nObservation:", "\nTask:", "\n---")

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            SettingsError: a value is out of range.
        """
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise SettingsError(
                f"temperature must be a finite number of at least 0, got {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.max_tokens < 1:
            raise SettingsError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if isinstance(self.stop, str):
            raise TypeError(f"stop must be a sequence of texts, got the text {self.stop!r}")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise SettingsError(f"stop must contain texts that are not empty, got {self.stop}")
        object.__setattr__(self, "stop", tuple(self.stop))

    def record(self) -> dict[str, Any]:
        """The values as JSON, for provenance."""
        return asdict(self) | {"stop": list(self.stop)}


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: the text.
        token_ids: its tokens as they were sampled, if known.
        log_probs: natural-log probabilities of the tokens, if known.
        usage: ``prompt_tokens``, ``completion_tokens``, ``cost_usd`` and the like.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"``, or what the server says.
        error: why there is no completion; empty if there is one.
        token_ends: for each token, how many UTF-8 bytes of `text` it and all tokens before it
            take, if known. Without it, a text that has to be cut loses its tokens.
        tool_calls: the tools that the model calls; `text` is what it wrote besides.
        is_permanent: for an error, whether every other request has to be expected to fail as well,
            until somebody corrects the key, the model's name or the server.
    """

    text: str = ""
    token_ids: list[int] | None = None
    log_probs: list[float] | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"
    error: str = ""
    token_ends: list[int] | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    is_permanent: bool = False

    @classmethod
    def of(cls, reply: str | Message) -> Completion:
        """The completion that a text, or an assistant's message, is."""
        if isinstance(reply, str):
            return cls(reply)
        calls = reply.get("tool_calls", [])
        reason = "tool_calls" if calls else "stop"
        return cls(reply["content"], finish_reason=reason, tool_calls=calls)

    @property
    def message(self) -> Message:
        """The completion as the assistant's message."""
        message: Message = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


@runtime_checkable
class ChatModel(Protocol):
    """A model that continues conversations.

    Optional members: `count_tokens(messages) -> int`, `max_context_tokens` (int), `provenance` (a
    dict of JSON values that the model's replies depend on), `prompts`, `with_example` and
    `protocol` (what it was trained with; see `eto_agents.policies.react`), and `concurrent`
    (whether `generate` may be called from several threads at once, as a server's client can). Where
    a model can call tools, `count_tokens` has the keyword parameter `tools`, as `generate` does.
    """

    name: str

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Continue each conversation.

        A model that can call tools has the keyword parameter `tools: Sequence[Tool] = ()`, too.

        Args:
            conversations: chats that end with a message of the user's, or of a tool's.
            sampling: how replies are sampled.
            seeds: one for each conversation, so that its reply does not depend on the others;
                without effect at temperature 0.
        """


def complete(
    model: ChatModel,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling,
    seeds: Sequence[int] | None = None,
    *,
    tools: Sequence[Tool] = (),
) -> list[Completion]:
    """Continue conversations with any model; every reply ends where a stop text begins.

    Args:
        model: the model.
        conversations: as in `ChatModel.generate`.
        sampling: likewise.
        seeds: likewise.
        tools: what the model may call.

    Raises:
        TypeError: there are tools, and the model cannot call any.
        UnknownNameError: there are tools, and the chat template of a local model has none.
    """
    with_tools: dict[str, Any] = {"tools": tools} if tools else {}
    completions = model.generate(conversations, sampling, seeds, **with_tools)
    return [cut_at_stop(completion, sampling.stop) for completion in completions]


def cut_at_stop(completion: Completion, stop: Sequence[str]) -> Completion:
    """End a completion where a stop text begins, as a server that honours `stop` does.

    Token ids and log-probabilities end with the last token that lies before the stop completely;
    if `token_ends` is not known, the completion has none.
    """
    cut = find_stop(completion.text, stop)
    if completion.error or cut is None:
        return completion
    text = completion.text[:cut]
    ends, ids, log_probs = completion.token_ends, completion.token_ids, completion.log_probs
    n_whole = 0
    if ends is not None:
        n_whole = bisect_right(ends, len(text.encode("utf-8", "surrogatepass")))
    return replace(
        completion,
        text=text,
        token_ids=None if ends is None or ids is None else ids[:n_whole],
        log_probs=None if ends is None or log_probs is None else log_probs[:n_whole],
        token_ends=None if ends is None else ends[:n_whole],
        finish_reason="stop",
        tool_calls=[],  # they follow the text
    )


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop text begins in a reply; None if there is none.

    A reasoning model may think of an observation; only one in the answer ends the reply.
    """
    answer = without_reasoning(text, replacement="\0")
    starts = [start for start in (answer.find(words) for words in stop) if start >= 0]
    return min(starts, default=None)


def load_model(name: str, **arguments: Any) -> ChatModel:
    """Load a model by its name.

    Args:
        name: ``"hf:<folder or name>"``, ``"openai:<model>"``, ``"scripted:<file>"``, or
            ``"package.module:Class"``.
        **arguments: for the model's class or function; its first argument is what follows the colon
            of a known kind.

    Raises:
        UnknownNameError: there is no such model.
        UnknownArgumentError: the class or function does not take an argument; a `TypeError`, too.
        SettingsError: an argument has the wrong type or is out of range.
    """
    kind, colon, rest = name.partition(":")
    if not colon or not rest:
        hint = "Write KIND:NAME, such as 'openai:gpt-4o-mini', or 'package.module:Class'."
        raise UnknownNameError("model", name, [f"{known}:…" for known in MODELS], hint)
    if kind in MODELS:
        load = _attribute(MODELS[kind])
        arguments = checked_arguments(load, arguments, f"model {name!r}", n_given=1)
        model: ChatModel = load(rest, **arguments)
        return model
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as with `python -m`
    try:
        make = _attribute(name)
    except ModuleNotFoundError as error:
        if error.name is None or not kind.startswith(error.name):
            raise
        hint = "Or 'package.module:Class'."
        raise UnknownNameError("kind of model", kind, list(MODELS), hint) from None
    except AttributeError:
        raise UnknownNameError(f"name in module {kind}", rest, ()) from None
    arguments = checked_arguments(make, arguments, f"model {name!r}")
    own: ChatModel = make(**arguments)
    return own


def _attribute(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
