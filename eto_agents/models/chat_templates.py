"""Which of our chat templates goes with a tokenizer, and what of it other programs can use.

Not here: the templates (`eto_agents.react.chat`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any, Final

from eto_agents.react.chat import encode, find_template, pieces, templates
from eto_agents.react.tool_calls import ARGUMENTS
from eto_agents.react.tools import ACT, uses_tools
from eto_agents.trajectory import FunctionCall, Message, Tool, ToolCall, with_objects
from eto_envs.errors import CorruptDataError, EtoError, UnknownNameError

_EMPTY_THOUGHT: Final = "<think>\n\n</think>\n\n"
_SPACED_TEMPLATES: Final = ("llama-2", "mistral")  # in which [INST] is ordinary text


def check_tokens(tokenizer: Any, template: str, name: str) -> None:
    """Encode an empty chat: the template's tokens must exist, and the tokenizer must work.

    Raises:
        UnknownNameError: there is no such template, or the tokenizer lacks one of its tokens.
        CorruptDataError: the tokenizer does not work.
    """
    try:
        encode([{"role": "user", "content": ""}], tokenizer, template)
    except EtoError:
        raise
    except Exception as error:  # tokenizers raises whatever its code meets first
        raise CorruptDataError(f"the tokenizer of {name!r} does not work: {error}") from error


def guess_template(config: Any, tokenizer: Any, name: str) -> str:
    """The template of a model's family, from its architecture and its special tokens.

    Raises:
        UnknownNameError: none is known to fit.
    """
    tokens = tokenizer.get_vocab()
    own = str(tokenizer.chat_template or "")
    candidates = {
        "plain": "<|assistant|>" in tokens and "<|end|>" in tokens,
        "llama-3.1": "<|eom_id|>" in tokens,
        "llama-3": "<|eot_id|>" in tokens,
        "qwen3": config.model_type == "qwen3",
        "qwen2.5": config.model_type == "qwen2",
        "smollm2": config.model_type == "llama" and "<|im_end|>" in tokens,
        "mistral-v3": config.model_type == "mistral" and "[INST]" in tokens,
        "mistral": config.model_type == "mistral" and "[INST]" in own,
        "llama-2": config.model_type == "llama" and "<<SYS>>" in own,
    }
    for template, fits in candidates.items():
        if fits and all(token in tokens for token in find_template(template).special):
            return template
    hint = "Give template=, the one the model was trained with."
    raise UnknownNameError("chat template known for", name, templates(), hint)


def check_format(tokenizer: Any, template: str, name: str, *, is_stated: bool) -> None:
    """Compare a template with the tokenizer's own, if it has one, on a short chat.

    Differs from the tokenizers' own templates: spaces, in which their revisions differ from each
    other, the date (`llama-3.1.jinja`), and the empty thought in earlier replies (`qwen3.jinja`).

    Raises:
        UnknownNameError: they differ, and nobody asked for this template.
    """
    if not tokenizer.chat_template:
        return
    chat: list[Message] = [
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u2"},
    ]
    ours = "".join(piece.text for piece in pieces(chat, template, for_reply=True))
    try:
        theirs = tokenizer.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string="26 Jul 2024",
        )
    except Exception as error:  # noqa: BLE001 (the template is a program of a third party)
        theirs = f"(it fails: {error})"
    if _comparable(ours) == _comparable(theirs):
        return
    differ = f"template {template!r} writes {ours!r}, and the tokenizer's own writes {theirs!r}"
    if not is_stated:
        hint = f"The nearest, {differ}. Give template={template!r} to use it all the same."
        raise UnknownNameError("chat template known for", name, templates(), hint)
    warnings.warn(
        f"{name}: {differ}; a model that was trained with the latter reads something unusual",
        UserWarning,
        stacklevel=3,
    )


def has_format(tokenizer: Any, template: str) -> bool:
    """Whether a tokenizer's own template writes exactly what ours does, also with tools."""
    if not tokenizer.chat_template:
        return False
    has_tools = find_template(template).call_tags is not None
    for chat, tools in _probes():
        if (tools or uses_tools(chat)) and not has_tools:
            continue
        for_reply = chat[-1]["role"] != "assistant"
        parts = pieces(chat, template, for_reply=for_reply, tools=tools)
        try:
            theirs = tokenizer.apply_chat_template(
                [with_objects(message) for message in chat],
                tools=tools or None,
                tokenize=False,
                add_generation_prompt=for_reply,
            )
        except Exception:  # noqa: BLE001 (the template is a program of a third party)
            return False
        if theirs != "".join(piece.text for piece in parts):
            return False
    return True


def _probes() -> Iterator[tuple[list[Message], list[Tool]]]:
    """Chats in which templates may differ, with tools."""
    function: FunctionCall = {"name": "act", "arguments": '{"action": "a <b>"}'}
    call: ToolCall = {"id": "call-1", "type": "function", "function": function}
    said: list[Message] = [
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u2"},
    ]
    called: list[Message] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": 'r1 "q"', "tool_call_id": "call-1"},
        {"role": "assistant", "content": "a2"},
    ]
    for system in ([], [Message(role="system", content="s")]):
        yield [*system, *said], []
        yield [*system, *said, *called], [ACT]


def response_template(template: str) -> dict[str, Any] | None:
    r"""How a reply is read in Hugging Face's terms: `tokenizer.response_template`.

    With it transformers (5.13 and later) and TRL find the tool calls that a model writes.

    Args:
        template: the name of a chat template.

    Returns:
        Fields with the patterns that open and close them; None for a template without tools.
    """
    form = find_template(template)
    if form.call_tags is None:
        return None
    end = re.escape(form.end)
    before, after = [*map(re.escape, form.call_tags), "", ""][:2]
    called = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
    if after:
        opening, closing = rf"\s*{before}\s*", rf"\s*{after}(?:\s*{end})?"
        called["function"] = "{content}"
    else:
        start = rf'\s*(?:{before}\s*)?\{{"name":\s*'
        opening = rf'{start}"(?P<name>[^"]+)",\s*"(?:{"|".join(ARGUMENTS)})":\s*'
        closing = rf"\}}(?:\s*{end}|(?={start}))"
    # A call ends with the turn if nothing follows: what is between the two would be empty content,
    # which takes the place of the text before the call.
    fields: dict[str, Any] = {
        "tool_calls": {
            "open_pattern": opening,
            "close_pattern": closing,
            "repeats": True,
            "content": "json",
            "transform": called,
        },
        "content": {"close_pattern": rf"\s*{end}", "content": "text"},
    }
    if "<think>" in form.special:
        thought = {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"}
        fields = {"reasoning_content": thought, **fields}
    user: list[Message] = [{"role": "user", "content": ""}]
    rendered, opened = (
        "".join(piece.text for piece in pieces(user, template, for_reply=for_reply))
        for for_reply in (False, True)
    )
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": opened.removeprefix(rendered),
        "fields": fields,
    }


def _comparable(text: str) -> str:
    """A rendered chat without what templates may differ in."""
    end = _EMPTY_THOUGHT if text.endswith(_EMPTY_THOUGHT) else ""
    return text.replace(_EMPTY_THOUGHT, "").replace(" ", "") + end


def begin_parts_with_space(tokenizer: Any, template: str) -> None:
    """Let a SentencePiece tokenizer put a space before the text after each special token.

    The code that came with Llama 2 and Mistral 7B encodes each pair of messages by itself, which
    has that effect (``▁[INST]``). transformers does the same with ``legacy=True``; from version 5
    on it loads these tokenizers with ``legacy=False``, whatever was saved.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if template not in _SPACED_TEMPLATES or backend is None:
        return
    from tokenizers import pre_tokenizers

    current = backend.pre_tokenizer
    if isinstance(current, pre_tokenizers.Metaspace) and current.prepend_scheme == "first":
        current.prepend_scheme = "always"
        backend.pre_tokenizer = current
