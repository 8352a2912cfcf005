"""`ChatModel`: the interface of language models, and how one is loaded by name.

A model continues many conversations in one call. A failure in one of them is that completion's
`error`, never an exception and never an empty text that could pass for a reply.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from eto_agents.trajectory import Message
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
            ValueError: a value is out of range.
        """
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if isinstance(self.stop, str):
            raise TypeError(f"stop must be a sequence of texts, got the text {self.stop!r}")
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
        finish_reason: ``"stop"``, ``"length"``, or what the server says.
        error: why there is no completion; empty if there is one.
    """

    text: str = ""
    token_ids: list[int] | None = None
    log_probs: list[float] | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"
    error: str = ""


@runtime_checkable
class ChatModel(Protocol):
    """A model that continues conversations.

    Optional members: `count_tokens(messages) -> int`, `max_context_tokens` (int), `provenance` (a
    dict of JSON values that the model's replies depend on), and `prompts` and `with_example` (what
    it was trained with; see `eto_agents.policies.react`).
    """

    name: str

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Continue each conversation.

        Args:
            conversations: chats that end with the user's message.
            sampling: how replies are sampled.
            seeds: one for each conversation, so that its reply does not depend on the others;
                without effect at temperature 0.
        """


def load_model(name: str, **arguments: Any) -> ChatModel:
    """Load a model by its name.

    Args:
        name: ``"hf:<folder or name>"``, ``"openai:<model>"``, ``"scripted:<file>"``, or
            ``"package.module:Class"``.
        **arguments: for the model's class or function; its first argument is what follows the colon
            of a known kind.

    Raises:
        UnknownNameError: there is no such model.
        TypeError: the class or function does not take the arguments.
    """
    kind, colon, rest = name.partition(":")
    if not colon or not rest:
        hint = "Write KIND:NAME, such as 'openai:gpt-4o-mini', or 'package.module:Class'."
        raise UnknownNameError("model", name, [f"{known}:…" for known in MODELS], hint)
    if kind in MODELS:
        model: ChatModel = _attribute(MODELS[kind])(rest, **arguments)
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
    own: ChatModel = make(**arguments)
    return own


def _attribute(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
