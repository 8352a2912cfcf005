"""`HuggingFaceModel`: a language model of `transformers` in this process, many chats in lockstep.

Chats are rendered by `eto_agents.models.chats` (what is trained is what is read), read by
`eto_agents.models.lockstep` (at most once a token, over all turns of an episode) and continued by
`eto_agents.models.sampler`. Loading is `eto_agents.models.checkpoints`' part.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from eto_agents.models.base import Completion, Sampling
from eto_agents.models.checkpoints import Checkpoint, load_checkpoint
from eto_agents.react.chat import find_template
from eto_agents.trajectory import Message
from eto_envs.errors import require
from eto_envs.files import sha256_of

require("transformers", extra="train")

import torch  # noqa: E402 (after the check that says which extra brings it)

from eto_agents.models.chats import Chats  # noqa: E402
from eto_agents.models.lockstep import Lockstep  # noqa: E402
from eto_agents.models.readers import Plain, Reader  # noqa: E402
from eto_agents.models.sampler import Sampled, Vocabulary, continue_all  # noqa: E402
from eto_agents.models.support import attention_of, check_lockstep  # noqa: E402

_WEIGHTS: Final = ("*.safetensors", "*.gguf")


class HuggingFaceModel:
    """A causal language model and its tokenizer.

    Attributes:
        name: ``"hf:<name>"``.
        checkpoint: model, tokenizer and template.
        prompts: the prompts it was trained with; `ReActPolicy` takes them by default.
        with_example: whether it was trained with the worked example; likewise.
        max_context_tokens: what it can read and write at once, None if its config has no bound.
        provenance: what its answers depend on; hashing the weights waits until it is asked for.
        totals: sums of all completions' usage so far, and ``requests`` and ``errors``.

    Args:
        name: what `eto_agents.models.checkpoints.load_checkpoint` takes: a folder, a ``.gguf``
            file, ``"smollm2-135m"``, or a name on the hub.
        dtype: ``"auto"`` (as on disk), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        device: such as ``"cpu"`` or ``"cuda:1"``, ``"auto"`` to spread it over all there is; by
            default the GPU if there is one.
        adapter: folder or hub name of a LoRA adapter.
        template: the chat template, where the checkpoint does not say.
        gguf_file: which file of the folder.
        max_batch: chats that are continued at once.
        with_cache: keep keys and values. Without, every token is computed from all before it: very
            slow, and right for every architecture.
        max_cache_gib: memory for keys and values; by default half of what is free. Chats for which
            it has no room wait their turn.
    """

    def __init__(  # noqa: PLR0913 (each is one thing that a user decides)
        self,
        name: str,
        *,
        dtype: str = "auto",
        device: str | None = None,
        adapter: str | None = None,
        template: str | None = None,
        gguf_file: str | None = None,
        max_batch: int = 64,
        with_cache: bool = True,
        max_cache_gib: float | None = None,
    ) -> None:
        """Load the model; see the class.

        Raises:
            DataNotFoundError: there is no such checkpoint.
            CorruptDataError: it is not a checkpoint.
            UnknownNameError: no such data type or template, or the tokenizer lacks its tokens.
            UnsupportedModelError: an architecture whose keys and values cannot be kept in rows.
            MissingExtraError: a package is not installed.
            ValueError: a number is out of range.
        """
        checkpoint = load_checkpoint(
            name,
            dtype=dtype,
            device=device,
            adapter=adapter,
            template=template,
            gguf_file=gguf_file,
        )
        self._sources = [Path(source) for source in (name, adapter) if source is not None]
        self._adapter = adapter
        self._set_up(checkpoint, f"hf:{name}", max_batch, with_cache, max_cache_gib)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        *,
        name: str = "in-memory",
        max_batch: int = 64,
        with_cache: bool = True,
        max_cache_gib: float | None = None,
    ) -> HuggingFaceModel:
        """A model from a checkpoint in memory, which may go on being trained.

        Raises:
            UnknownNameError: the tokenizer lacks the template's tokens.
            UnsupportedModelError: see the class.
            ValueError: a number is out of range.
        """
        made = cls.__new__(cls)
        made._sources, made._adapter = [], None
        made._set_up(checkpoint, f"hf:{name}", max_batch, with_cache, max_cache_gib)
        return made

    def _set_up(
        self,
        checkpoint: Checkpoint,
        name: str,
        max_batch: int,
        with_cache: bool,
        max_cache_gib: float | None,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, got {max_batch}")
        if max_cache_gib is not None and not max_cache_gib > 0:
            raise ValueError(f"max_cache_gib must be positive, got {max_cache_gib}")
        self.name = name
        self.checkpoint = checkpoint
        self.prompts = checkpoint.prompts
        self.with_example = checkpoint.with_example
        self.totals: dict[str, float] = {}
        config = checkpoint.model.config.get_text_config()
        self.max_context_tokens: int | None = getattr(config, "max_position_embeddings", None)
        self._max_batch = max_batch
        self._with_cache = with_cache
        self._max_cache_gib = max_cache_gib
        self._vocabulary = Vocabulary(
            checkpoint.tokenizer, int(config.vocab_size), _end_ids(checkpoint)
        )
        self._chats = Chats(checkpoint.tokenizer, checkpoint.template, self._vocabulary)
        self._reader = self._make_reader(is_new=True)
        self._weights_seen = self._weights_now()

    @property
    def provenance(self) -> dict[str, Any]:
        """Model, precision, device, template and the weights' SHA-256."""
        model = self.checkpoint.model
        return {
            "name": self.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(self._device),
            "adapter": self._adapter,
            "template": self.checkpoint.template,
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
        device: torch.device = self.checkpoint.model.get_input_embeddings().weight.device
        return device

    def _make_reader(self, *, is_new: bool) -> Reader:
        model = self.checkpoint.model
        if not self._with_cache:
            return Plain(model)
        attention = attention_of(model)
        gib = self._max_cache_gib
        n_bytes = _free_bytes(self._device) // 2 if gib is None else int(gib * 2**30)
        if is_new:
            with self._inference():
                check_lockstep(model, attention)
        return Lockstep(model, attention, n_bytes)

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode without gradients; the mode is put back."""
        model = self.checkpoint.model
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            model.train(was_training)

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
        parameters = self.checkpoint.model.parameters()
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
        for name, tensor in sorted(self.checkpoint.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(raw.numpy().tobytes())
        return {"tensors_sha256": digest.hexdigest()}


def _end_ids(checkpoint: Checkpoint) -> list[int]:
    """Tokens that end a turn, as template, tokenizer and the model's own settings say."""
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    end = find_template(checkpoint.template).end
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
