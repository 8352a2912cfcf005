"""Settings: ranges, the overlay of TOML files and its error messages, and JSON records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from eto_agents.settings import (
    DPO,
    ETO,
    GRPO,
    PPO,
    RFT,
    SFT,
    Optimisation,
    Playing,
    Settings,
    SettingsError,
    key_values,
    overlay,
    record_of,
)
from eto_agents.strict_json import write_json
from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.files import read_json_object, read_toml

METHODS = [SFT, RFT, DPO, PPO, GRPO, ETO]


@dataclass(frozen=True)
class Example:
    out: Path
    rate: float = 0.1
    epochs: int = 3
    kind: Literal["a", "b"] = "a"
    seeds: tuple[int, ...] = (0,)
    score: float | None = None
    quiet: bool = False


def test_a_file_overrides_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('out = "runs/x"\nrate = 1\nkind = "b"\nseeds = [1, 2]\nscore = 0.5\n')
    settings = overlay(Example(Path("y"), epochs=7), read_toml(path), str(path))
    assert settings == Example(Path("runs/x"), 1.0, 7, "b", (1, 2), 0.5)
    write_json(tmp_path / "config.json", record_of(settings))
    assert overlay(Example(Path()), read_json_object(tmp_path / "config.json")) == settings


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"rats": 1}, UnknownNameError, "did you mean 'rate'"),
        ({"epochs": 1.5}, SettingsError, "epochs must be int"),
        ({"epochs": True}, SettingsError, "epochs must be int"),
        ({"kind": "c"}, SettingsError, "kind must be one of"),
        ({"seeds": 3}, SettingsError, "seeds must be a list"),
        ({"seeds": ["x"]}, SettingsError, "seeds must be int"),
        ({"score": "high"}, SettingsError, "score must be float"),
    ],
)
def test_errors_name_the_setting(
    record: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        overlay(Example(Path()), record)


def test_missing_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError):
        read_toml(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("= 1")
    with pytest.raises(CorruptDataError, match="not valid TOML"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(CorruptDataError, match="not JSON"):
        read_json_object(tmp_path / "bad.toml")


def test_key_values_are_parsed_as_json_where_possible() -> None:
    texts = ("n=20", "name=room", "flag=true", 'list=["a"]', "empty=")
    assert key_values(texts) == {"n": 20, "name": "room", "flag": True, "list": ["a"], "empty": ""}
    for text in ("n", "=3"):
        with pytest.raises(UnknownNameError, match="KEY=VALUE"):
            key_values((text,))


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_of_a_method_are_in_range_and_survive_a_json_file(
    method: type[Settings], tmp_path: Path
) -> None:
    settings = method()
    write_json(tmp_path / "config.json", record_of(settings))
    record = read_json_object(tmp_path / "config.json")

    def read(default: Any, values: dict[str, Any]) -> Any:
        return overlay(default, {k: v for k, v in values.items() if v is not None})

    nested = {"dpo": read(DPO(), record.pop("dpo"))} if "dpo" in record else {}
    assert read(dataclasses.replace(settings, **nested), record) == settings


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        *((m, {"epochs": 0}, "epochs must be above 0") for m in METHODS[:-1]),
        *((m, {"learning_rate": 0.0}, "learning_rate must be above 0") for m in METHODS[:-1]),
        *((m, {"weight_decay": -1.0}, "weight_decay must be at least 0") for m in METHODS[:-1]),
        *((m, {"save_every": -1}, "save_every must be at least 0") for m in METHODS[:-1]),
        *((m, {"batch_size": 0}, "batch_size must be above 0") for m in METHODS[:3]),
        *((m, {"max_length": 0}, "max_length must be above 0") for m in METHODS[:3]),
        *((m, {"lora_rank": -1}, "lora_rank must be at least 0") for m in METHODS[:3]),
        *((m, {"warmup_ratio": 1.0}, r"warmup_ratio must be in \[0, 1\)") for m in METHODS[:3]),
        *((m, {"n_envs": 0}, "n_envs must be above 0") for m in (RFT, PPO, GRPO, ETO)),
        *((m, {"max_new_tokens": 0}, "max_new_tokens must be") for m in (RFT, PPO, GRPO, ETO)),
        *((m, {"dev_tasks": -1}, "dev_tasks must be at least 0") for m in (RFT, PPO, GRPO, ETO)),
        *((m, {"n_updates": 0}, "n_updates must be above 0") for m in (PPO, GRPO)),
        *((m, {"n_episodes": 0}, "n_episodes must be above 0") for m in (PPO, GRPO)),
        *((m, {"clip": 0.0}, "clip must be above 0") for m in (PPO, GRPO)),
        *((m, {"kl_weight": -0.1}, "kl_weight must be at least 0") for m in (PPO, GRPO)),
        (SFT, {"micro_batch_size": 0}, "micro_batch_size must be above 0"),
        (SFT, {"log_every": 0}, "log_every must be above 0"),
        (SFT, {"batch_tokens": -1}, "batch_tokens must be at least 0"),
        (SFT, {"world_weight": 1.1}, r"world_weight must be in \[0, 1\]"),
        (SFT, {"batch_size": 6, "micro_batch_size": 4}, "must be a multiple of micro_batch_size"),
        (RFT, {"world_weight": 1.1}, r"world_weight must be in \[0, 1\]"),
        (RFT, {"n_samples": 0}, "n_samples must be above 0"),
        (RFT, {"temperature": 0.0}, "temperature must be above 0"),
        (RFT, {"min_score": 2.0}, r"min_score must be in \[0, 1\]"),
        (DPO, {"beta": 0.0}, "beta must be above 0"),
        (DPO, {"micro_batch_tokens": 0}, "micro_batch_tokens must be above 0"),
        (DPO, {"nll_weight": -1.0}, "nll_weight must be at least 0"),
        (DPO, {"alarm_nats": -1.0}, "alarm_nats must be at least 0"),
        (PPO, {"n_minibatches": 0}, "n_minibatches must be above 0"),
        (PPO, {"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        (PPO, {"lam": -0.1}, r"lam must be in \[0, 1\]"),
        (GRPO, {"n_samples": 1}, "at least 2"),
        (GRPO, {"n_episodes": 20, "n_samples": 8}, "n_episodes 20 must be a multiple"),
        (ETO, {"iterations": -1}, "iterations must be at least 0"),
        (ETO, {"n_samples": 0}, "n_samples must be above 0"),
        (ETO, {"keep_best": True}, "keep_best needs dev_tasks"),
        (ETO, {"pairs": "self"}, "n_samples of at least 2, got 1"),
        (ETO, {"pairs": "success"}, "n_samples of at least 2, got 1"),
        (ETO, {"n_samples": 2}, "n_samples=2 needs a temperature above 0"),
    ],
)
def test_values_out_of_range_are_refused(
    method: type[Settings], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        method(**changes)


def test_the_ranges_of_both_parents_are_checked() -> None:
    """RFT is a `Playing` and an `SFT`: each class checks its own ranges and calls the next."""
    order = [c for c in RFT.__mro__ if dataclasses.is_dataclass(c)]
    assert order.index(Playing) < order.index(SFT) < order.index(Optimisation)
    for changes in ({"n_envs": 0}, {"log_every": 0}, {"epochs": 0}, {"n_samples": 0}):
        with pytest.raises(SettingsError, match=f"{next(iter(changes))} must be above 0"):
            RFT(**changes)  # type: ignore[arg-type]


def test_environment_arguments_are_the_dataset_and_the_shaping() -> None:
    assert Playing().env_args == {}
    assert Playing(dataset="mini", n_tasks=3, dev_tasks=2).env_args == {"dataset": "mini"}
    assert ETO(dataset="mini", split="seen").env_args == {"dataset": "mini"}  # no split
    assert PPO(shaping=("terminal_only",)).env_args == {"shaping": ("terminal_only",)}
    assert GRPO(dataset="mini", shaping=("step_cost=0.01",)).env_args == {
        "dataset": "mini",
        "shaping": ("step_cost=0.01",),
    }


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "9" * 400])
@pytest.mark.parametrize("name", ["epochs", "learning_rate", "weight_decay", "max_grad_norm"])
def test_numbers_are_finite(name: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f"{name} = {value}")
    with pytest.raises(SettingsError, match=rf"s\.toml: .*{name}"):
        overlay(SFT(), read_toml(path), str(path))
    with pytest.raises(SettingsError, match=name):
        SFT(**{name: float(value)})
