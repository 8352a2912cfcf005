"""Java for the tests that need it, ETO's index files, and the recorded episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eto_envs import data
from eto_envs.scienceworld.installed import find_java
from tests.conftest import read_jsonl_gz


@pytest.fixture(scope="session")
def java() -> str:
    return find_java()


@pytest.fixture
def eto_splits(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ETO's index files in a cache of their own."""
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ETO_DATA_MIRROR", str(shared_data / "mirror"))
    for name in ("train_indices.json", "dev_indices.json", "test_indices.json", "max_steps.json"):
        data.download(f"eto-splits/sciworld/{name}")


@pytest.fixture(scope="session")
def golden(shared_data: Path) -> dict[str, list[Any]]:
    """Recorded episodes by set."""
    folder = shared_data / "scienceworld" / "golden"
    return {
        name: read_jsonl_gz(folder / f"{name}.jsonl.gz") for name in ("uuid", "hash2", "etosim")
    }
