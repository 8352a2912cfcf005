"""`LocalModel`: a chat model that runs a language model of `transformers` in this process.

Chats become token ids in `eto_agents.models.chat_encoder`, with the renderer that training
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
from eto_agents.models.chat_encoder import ChatEncoder
from eto_agents.models.control_tokens import control_ids, end_ids
from eto_agents.models.local.cached_runner import CachedRunner
from eto_agents.models.local.runner import Runner, UncachedRunner
from eto_agents.models.local.sampler import SampledReply, Vocabulary, sample_replies
from eto_agents.models.local.support import attention_pattern, check_cached_logits
from eto_agents.react.chat import check_has_tools
from eto_agents.settings import ProtocolName, SettingsError
from eto_agents.trajectory import Message, Tool
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
        protocol: the protocol it was trained with, None if not known; likewise.
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
        protocol: the protocol it was trained with; None if that is not known.
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
        protocol: ProtocolName | None = None,
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
            SettingsError: a number is out of range.
        """
        if max_batch < 1:
            raise SettingsError(f"max_batch must be at least 1, got {max_batch}")
        if max_cache_gib is not None and not max_cache_gib > 0:
            raise SettingsError(f"max_cache_gib must be positive, got {max_cache_gib}")
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.prompts = prompts
        self.with_example = with_example
        self.protocol = protocol
        self.totals: dict[str, float] = {}
        config = model.config.get_text_config()
        self.max_context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self._sources = list(sources)
        self._adapter = adapter
        self._max_batch = max_batch
        self._with_cache = with_cache
        self._max_cache_gib = max_cache_gib
        self._vocabulary = Vocabulary(
            tokenizer,
            int(config.vocab_size),
            end_ids(model, tokenizer, template),
            control_ids(model, tokenizer, template),
            control_ids(model, tokenizer, template, with_tools=True),
        )
        self._encoder = ChatEncoder(tokenizer, template, self._vocabulary.end_ids)
        self._runner = self._make_runner(is_new=True)
        self._cached_versions = self._weight_versions()

    @property
    def provenance(self) -> dict[str, Any]:
        """Name, precision, device, template and hashes of the weights."""
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
        *,
        tools: Sequence[Tool] = (),
    ) -> list[Completion]:
        """Continue each conversation; see `ChatModel.generate`.

        ``log_probs`` are those of the model's own distribution over all tokens but control tokens,
        whatever temperature and top_p the tokens were sampled with. Usage has ``prompt_tokens``,
        ``cached_tokens`` (those of the prompt that did not have to be computed) and
        ``completion_tokens``. With tools, the reply is parsed by the template's syntax; token ids
        and log-probabilities are those of all that was written, calls included.

        Raises:
            UnknownNameError: there are tools, and the template cannot render them.
        """
        if tools:
            check_has_tools(self.template)
        completions: dict[int, Completion] = {}
        prompts: dict[int, list[int]] = {}
        for index, conversation in enumerate(conversations):
            try:
                prompts[index] = self._encoder.encode(conversation, tools)
            except ValueError as error:
                completions[index] = Completion(error=str(error))
                continue
            if self._budget(prompts[index], sampling) < 1:
                completions[index] = Completion(
                    error=f"the conversation has {len(prompts.pop(index))} tokens, and the context "
                    f"of the model is {self.max_context_tokens}: drop turns"
                )
        self._clear_cache_if_trained()
        with self._inference():
            for indices in self._batches(prompts, sampling):
                replies = self._sample(
                    [prompts[index] for index in indices],
                    sampling,
                    None if seeds is None else [seeds[index] for index in indices],
                    with_tools=bool(tools),
                )
                for index, (reply, n_cached) in zip(indices, replies, strict=True):
                    completions[index] = self._completion(
                        conversations[index], tools, len(prompts[index]), reply, n_cached
                    )
        return [self._counted(completions[index]) for index in range(len(conversations))]

    def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        """Number of tokens of a chat, those that open the reply included."""
        return len(self._encoder.encode(messages, tools))

    def clear_cache(self) -> None:
        """Free the KV cache. After a change of the weights `generate` does so itself."""
        self._runner = self._make_runner(is_new=False)

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def _make_runner(self, *, is_new: bool) -> Runner:
        if not self._with_cache:
            return UncachedRunner(self.model)
        pattern = attention_pattern(self.model)
        gib = self._max_cache_gib
        n_bytes = _free_bytes(self._device) // 2 if gib is None else int(gib * 2**30)
        if is_new:
            with self._inference():
                check_cached_logits(self.model, pattern)
        return CachedRunner(self.model, pattern, n_bytes)

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode, without gradients; the model's mode is restored."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.train(was_training)

    def _budget(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """The most tokens of the reply."""
        if self.max_context_tokens is None:
            return sampling.max_tokens
        return min(sampling.max_tokens, self.max_context_tokens - len(prompt))

    def _batches(self, prompts: dict[int, list[int]], sampling: Sampling) -> list[list[int]]:
        """Prompts in batches as large as `max_batch` and the memory allow."""
        if not prompts:
            return []
        indices = list(prompts)
        longest = max(len(ids) + self._budget(ids, sampling) for ids in prompts.values())
        self._runner.reserve(len(prompts), longest)
        size = min(self._max_batch, self._runner.max_rows(longest))
        return [indices[first : first + size] for first in range(0, len(indices), size)]

    def _sample(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int] | None,
        *,
        with_tools: bool,
    ) -> list[tuple[SampledReply, int]]:
        """Replies, and how many tokens of each prompt were cached."""
        budgets = [self._budget(prompt, sampling) for prompt in prompts]
        try:
            replies, n_cached = sample_replies(
                self._runner,
                prompts,
                budgets,
                sampling,
                seeds,
                self._vocabulary,
                with_tools=with_tools,
            )
        except BaseException:
            # An interruption (out of memory, Ctrl-C) leaves rows whose keys and values are not
            # those of their ids.
            self.clear_cache()
            raise
        return list(zip(replies, n_cached, strict=True))

    def _completion(
        self,
        conversation: Sequence[Message],
        tools: Sequence[Tool],
        n_prompt: int,
        sampled: SampledReply,
        n_cached: int,
    ) -> Completion:
        usage = {
            "prompt_tokens": float(n_prompt),
            "cached_tokens": float(n_cached),
            "completion_tokens": float(len(sampled.drawn_ids)),
        }
        if not all(map(math.isfinite, sampled.log_probs)):
            return Completion(error="the model's logits are not finite numbers", usage=usage)
        completion = Completion(
            sampled.text, sampled.token_ids, sampled.log_probs, usage, sampled.finish_reason
        )
        return self._encoder.read(conversation, completion, tools)

    def _counted(self, completion: Completion) -> Completion:
        """The completion, added to the totals."""
        counts = {"requests": 1.0, "errors": float(bool(completion.error))}
        for name, value in (counts | dict(completion.usage)).items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        return completion

    def _weight_versions(self) -> list[tuple[int, int]]:
        """Changes whenever a weight does: in-place updates increment a tensor's version."""
        parameters = self.model.parameters()
        return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters]

    def _clear_cache_if_trained(self) -> None:
        versions = self._weight_versions()
        if versions != self._cached_versions:
            self._cached_versions = versions
            self.clear_cache()

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


def _weight_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
