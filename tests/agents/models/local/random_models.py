"""Random models of several architectures, and chats for them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from eto_agents.models.base import Completion, Sampling
from eto_agents.models.checkpoint import Checkpoint
from eto_agents.models.control_tokens import control_ids, without_tokens
from eto_agents.models.local import LocalModel
from eto_agents.models.tiny import train_tokenizer
from eto_agents.trajectory import Message

TEXT = "Thought: I search for a desk lamp. Action: search[desk lamp] Observation: Page 1 of 3"
TOKENIZER = train_tokenizer([TEXT], vocab_size=320)
END = TOKENIZER.convert_tokens_to_ids("<|end|>")
SHAPE = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "eos_token_id": END,
    "bos_token_id": None,
    "pad_token_id": 0,
}
WINDOWS = {"layer_types": ["full_attention", "sliding_attention"]}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", WINDOWS | {"use_sliding_window": True, "sliding_window": 24}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 24}),
    "gemma3": ("Gemma3Text", WINDOWS | {"sliding_window": 24}),
}


def checkpoint_of(architecture: str = "llama", **changes: Any) -> Checkpoint:
    """A random model whose logits lie far apart, so that greedy decoding meets no near ties.

    Of the special tokens it writes the end token alone.
    """
    family, shape = ARCHITECTURES[architecture]
    config = getattr(transformers, f"{family}Config")(**SHAPE | shape | changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: Any = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, 0.35)
            model.lm_head.weight[:END] = 0
    return Checkpoint(model.eval(), TOKENIZER, "plain")


def local_model(checkpoint: Checkpoint, **arguments: Any) -> LocalModel:
    return LocalModel(
        checkpoint.model,
        checkpoint.tokenizer,
        checkpoint.template,
        prompts=checkpoint.prompts,
        with_example=checkpoint.with_example,
        **arguments,
    )


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def first_chat(number: int) -> list[Message]:
    return [user(TEXT), assistant("OK"), user(f"Task {number}: " + "a lamp, " * (number % 5))]


def play(
    model: LocalModel, sampling: Sampling, n_episodes: int = 6, n_turns: int = 7
) -> list[tuple[list[Message], Completion]]:
    """Play episodes of two to five turns, starting a new one for each that ends.

    Returns:
        Each chat with its completion.
    """
    numbers = itertools.count()
    episodes = [(number, first_chat(number)) for number in itertools.islice(numbers, n_episodes)]
    replies = []
    for turn in range(n_turns):
        completions = model.generate(
            [chat for _, chat in episodes],
            sampling,
            [100 * number + turn for number, _ in episodes],
        )
        for i, completion in enumerate(completions):
            assert not completion.error
            number, chat = episodes[i]
            replies.append((list(chat), completion))
            chat.append(assistant(completion.text))
            chat.append(user(f"Page {turn} " + "of 3, " * (7 * number % 11)))
            if len(chat) > 3 + 2 * (2 + number % 4):
                number = next(numbers)
                episodes[i] = number, first_chat(number)
    return replies


def free_reply(model: LocalModel, chat: Sequence[Message]) -> Completion:
    return model.generate([chat], Sampling(max_tokens=24, stop=()))[0]


def swap_heads(checkpoint: Checkpoint, a: int, b: int) -> None:
    """Swap two tokens' logits."""
    with torch.no_grad():
        head = checkpoint.model.lm_head.weight
        head[[a, b]] = head[[b, a]]


def full_log_probs(model: Any, context: Sequence[int], reply: Sequence[int]) -> torch.Tensor:
    """Log-probabilities (reply, vocabulary) from one forward pass without a cache."""
    with torch.inference_mode():
        ids = torch.tensor([[*context, *reply]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(context) - 1 : -1]
    ids = torch.tensor(control_ids(model, TOKENIZER, "plain"))
    return torch.log_softmax(without_tokens(logits, ids), -1)
