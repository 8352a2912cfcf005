"""`LocalModel`: a chat model that runs a language model of `transformers` in this process.

Chats become token ids in `eto_agents.models.local.chat_encoder`, with the renderer that training
uses. `eto_agents.models.local.cached_runner` computes logits, each token's only once over all turns
of an episode, and `eto_agents.models.local.sampler` draws tokens from them. Reading weights from
disk is `eto_agents.models.checkpoint`'s part.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from eto_agents.models.base import Completion, Sampling
from eto_agents.models.local.cached_runner import Lockstep
from eto_agents.models.local.chat_encoder import Chats
from eto_agents.models.local.runner import Plain, Reader
from eto_agents.models.local.sampler import Sampled, Vocabulary, continue_all
from eto_agents.models.local.support import attention_of, check_lockstep
from eto_agents.react.chat import find_template
from eto_agents.trajectory import Message
from eto_envs.files import sha256_of

_WEIGHTS: Final = ("*.safetensors", "*.gguf")


class LocalModel:
    """A causal language model, its tokenizer and its chat template, as a `ChatModel`.

    The model may be trained between calls: what was computed with old weights is discarded.

    Attributes:
        name: as given.
        model: the model.
        tokenizer: its tokenizer.
        template: its chat template.
        prompts: the prompts it was trained with; the default of `ReActPolicy`.
        with_example: whether it was trained with the worked example; likewise.
        max_context_tokens: the most tokens of a prompt and its reply, None if the config sets no
            limit.
        provenance: what replies depend on; the weights are hashed when it is first read.
        totals: the usage of all completions so far, summed, with ``requests`` and ``errors``.

    Args:
        model: a causal language model of `transformers`.
        tokenizer: its tokenizer.
        template: one of `eto_agents.react.chat.templates`.
        prompts: the prompts it was trained with.
        with_example: whether it was trained with the worked example.
        name: for results and logs.
        sources: files and folders that the weights were read from; `provenance` has the hashes of
            the weight files in them, or without any a hash of the tensors.
        adapter: the LoRA adapter that was merged into the weights, for `provenance`.
        max_batch: the most chats in a batch.
        with_cache: use a KV cache. Without one every token is computed from all before it, which
            is very slow and right for every architecture.
        max_cache_gib: memory for the KV cache; by default half of what is free. Chats that it has
            no room for wait for the next batch.
    """

    def __init__(  # noqa: PLR0913 (each is one thing that a user decides)
        self,
        model: Any,
        tokenizer: Any,
        template: str,
        *,
        prompts: str = "own",
        with_example: bool = True,
        name: str = "hf:in-memory",
        sources: Sequence[Path] = (),
        adapter: str | None = None,
        max_batch: int = 64,
        with_cache: bool = True,
        max_cache_gib: float | None = None,
    ) -> None:
        """Check that the model can be run; see the class.

        Raises:
            UnknownNameError: no such template, or the tokenizer lacks its tokens.
            UnsupportedModelError: the KV cache does not work for the architecture.
            ValueError: a number is out of range.
        """
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        if max_cache_gib is not None and not max_cache_gib > 0:
            raise ValueError(f"max_cache_gib must be positive, got {max_cache_gib}")
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.prompts = prompts
        self.with_example = with_example
        self.totals: dict[str, float] = {}
        config = model.config.get_text_config()
        self.max_context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self._sources = list(sources)
        self._adapter = adapter
        self._max_batch = max_batch
        self._with_cache = with_cache
        self._max_cache_gib = max_cache_gib
        self._vocabulary = Vocabulary(
            tokenizer, int(config.vocab_size), _end_ids(model, tokenizer, template)
        )
        self._chats = Chats(tokenizer, template, self._vocabulary)
        self._reader = self._make_reader(is_new=True)
        self._weights_seen = self._weights_now()

    @property
    def provenance(self) -> dict[str, Any]:
        """Model, precision, device, template and the weights' SHA-256."""
        return {
            "name": self.name,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self._device),
            "adapter": self._adapter,
            "template": self.template,
            "with_cache": self._with_cache,
        } | self._weights_record()

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion]:
        """Continue each conversation; see `ChatModel.generate`.

        ``log_probs`` are those of the model's own distribution, whatever temperature and top_p the
        tokens were drawn with. Usage has ``prompt_tokens``, ``cached_tokens`` (those of the prompt
        that had not to be read again) and ``completion_tokens``.
        """
        done: dict[int, Completion] = {}
        prompts: dict[int, list[int]] = {}
        for number, conversation in enumerate(conversations):
            try:
                prompts[number] = self._chats.encode(conversation)
            except ValueError as error:
                done[number] = Completion(error=str(error))
                continue
            room = self._budget(prompts[number], sampling)
            if room < 1:
                done[number] = Completion(
                    error=f"the conversation has {len(prompts.pop(number))} tokens, the model "
                    f"reads and writes {self.max_context_tokens}: drop turns"
                )
        self._forget_if_trained()
        with self._inference():
            for numbers in self._batches(prompts, sampling):
                sampled = self._continue(
                    [prompts[number] for number in numbers],
                    sampling,
                    None if seeds is None else [seeds[number] for number in numbers],
                )
                for number, (reply, n_known) in zip(numbers, sampled, strict=True):
                    done[number] = self._completion(
                        conversations[number], len(prompts[number]), reply, n_known
                    )
        return [self._counted(done[number]) for number in range(len(conversations))]

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens that the model reads of a chat, the opening of its reply included."""
        return len(self._chats.encode(messages))

    def forget(self) -> None:
        """Give the memory of all conversations back; done by itself after the weights changed."""
        self._reader = self._make_reader(is_new=False)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def _make_reader(self, *, is_new: bool) -> Reader:
        if not self._with_cache:
            return Plain(self.model)
        attention = attention_of(self.model)
        gib = self._max_cache_gib
        n_bytes = _free_bytes(self._device) // 2 if gib is None else int(gib * 2**30)
        if is_new:
            with self._inference():
                check_lockstep(self.model, attention)
        return Lockstep(self.model, attention, n_bytes)

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; the mode is put back."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)

    def _budget(self, prompt: Sequence[int], sampling: Sampling) -> int:
        if self.max_context_tokens is None:
            return sampling.max_tokens
        return min(sampling.max_tokens, self.max_context_tokens - len(prompt))

    def _batches(self, prompts: dict[int, list[int]], sampling: Sampling) -> list[list[int]]:
        """What is continued together: as many as are allowed and fit into memory."""
        if not prompts:
            return []
        numbers = list(prompts)
        longest = max(len(ids) + self._budget(ids, sampling) for ids in prompts.values())
        self._reader.expect(len(prompts), longest)
        size = min(self._max_batch, self._reader.most_rows(longest))
        return [numbers[first : first + size] for first in range(0, len(numbers), size)]

    def _continue(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int] | None
    ) -> list[tuple[Sampled, int]]:
        budgets = [self._budget(prompt, sampling) for prompt in prompts]
        try:
            sampled, n_known = continue_all(
                self._reader, prompts, budgets, sampling, seeds, self._vocabulary
            )
        except BaseException:
            # What was interrupted half-way (memory, Ctrl-C) leaves rows that hold something else
            # than they say.
            self.forget()
            raise
        return list(zip(sampled, n_known, strict=True))

    def _completion(
        self, conversation: Sequence[Message], n_prompt: int, reply: Sampled, n_known: int
    ) -> Completion:
        usage = {
            "prompt_tokens": float(n_prompt),
            "cached_tokens": float(n_known),
            "completion_tokens": float(len(reply.drawn)),
        }
        if not all(map(math.isfinite, reply.log_probs)):
            return Completion(error="the model's logits are not finite numbers", usage=usage)
        self._chats.remember(conversation, reply)
        return Completion(reply.text, reply.token_ids, reply.log_probs, usage, reply.finish_reason)

    def _counted(self, completion: Completion) -> Completion:
        counts = {"requests": 1.0, "errors": float(bool(completion.error))}
        for name, value in (counts | dict(completion.usage)).items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        return completion

    def _weights_now(self) -> list[tuple[int, int]]:
        """Changes when a weight does: an optimiser's step counts up its tensor's version."""
        parameters = self.model.parameters()
        return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]

    def _forget_if_trained(self) -> None:
        now = self._weights_now()
        if now != self._weights_seen:
            self._weights_seen = now
            self.forget()

    def _weights_record(self) -> dict[str, Any]:
        files = [
            file
            for source in self._sources
            for file in ([source] if source.is_file() else _weight_files(source))
        ]
        if files:
            hashes = {f"{file.parent.name}/{file.name}": sha256_of(file) for file in files}
            return {"weights_sha256": hashes}
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        return {"tensors_sha256": digest.hexdigest()}


def _end_ids(model: Any, tokenizer: Any, template: str) -> list[int]:
    """Tokens that end a turn, as template, tokenizer and the model's own settings say."""
    end = find_template(template).end
    ends = {tokenizer.encode(end, add_special_tokens=False)[0], tokenizer.eos_token_id}
    for settings in (model.config, getattr(model, "generation_config", None)):
        own = getattr(settings, "eos_token_id", None)
        ends.update(own if isinstance(own, list | tuple) else [own])
    return sorted(int(end) for end in ends if end is not None)


def _weight_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
