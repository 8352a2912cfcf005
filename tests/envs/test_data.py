from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eto_envs import data
from eto_envs.errors import CorruptDataError, DataError, DataNotFoundError, UnknownNameError
from eto_envs.fetch import CHUNK_BYTES
from tests.file_server import FileServer, serve_files

WORDS = b"one two three\n" * 20_000
COUNTS = b"[1, 2, 3]\n"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files() as files:
        files.add("words.txt", WORDS)
        files.add("counts.json", COUNTS)
        yield files


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ETO_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ETO_DATA_MIRROR", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def toy(tmp_path: Path, server: FileServer) -> Path:
    """A manifest of two files in one group and one in another."""
    return write_manifest(tmp_path / "manifest.toml", server.url)


def write_manifest(target: Path, url: str) -> Path:
    def entry(group: str, name: str, content: bytes, more: str = "") -> str:
        return (
            f'[[{group}.files]]\nname = "{name}"\npath = "{group}/{name}"\n{more}'
            f'urls = ["{url}/{name}"]\nsize_bytes = {len(content)}\n'
            f'sha256 = "{hashlib.sha256(content).hexdigest()}"\ndescription = "a file"\n'
        )

    head = 'licence = "free"\nsource = "this test"\n'
    mirror = 'mirror = "elsewhere/counts.json"\n'
    target.write_text(
        f"[toy]\n{head}{entry('toy', 'words.txt', WORDS)}{entry('toy', 'counts.json', COUNTS)}"
        f"[other]\n{head}{entry('other', 'counts.json', COUNTS, mirror)}"
    )
    return target


def test_own_manifest_is_complete_and_consistent() -> None:
    groups = data.manifest()
    assert list(groups) == [
        "webshop",
        "webshop-small",
        "eto-splits",
        "eto-prompts",
        "eto-sft",
        "alfworld",
        "eto-archives",
    ]
    files = [file for group in groups.values() for file in group]
    assert len({file.name for file in files}) == len({file.path for file in files}) == len(files)
    for file in files:
        assert file.name.startswith(f"{file.group}/")
        assert file.urls
        assert all(url.startswith("https://") for url in file.urls)
        assert file.licence
        assert file.source
        assert file.description
        if file.group == "eto-archives":
            assert file.size_bytes is None
            assert file.sha256 is None
        else:
            assert file.size_bytes is not None
            assert re.fullmatch("[0-9a-f]{64}", str(file.sha256))
    by_name = {file.name: file for file in files}
    assert by_name["webshop/items_shuffle.json"].size_bytes == 5_479_720_229
    assert len(by_name["webshop-small/items_shuffle.json"].urls) == 2


def test_documentation_has_every_group_with_its_size() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:4]] for line in page.splitlines()]
    for group, files in data.manifest().items():
        (row,) = [row for row in rows if row[:1] == [group] and row[1].isdigit()]
        assert row[1] == str(len(files))
        size_mb = sum(file.size_bytes or 0 for file in files) / 1e6
        if size_mb:
            shown = float(row[2].removesuffix(" MB").replace(",", ""))
            assert shown == pytest.approx(size_mb, rel=0.02)
        else:
            assert row[2] == "unknown"


def test_manifest_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        data.manifest()["webshop"] = ()  # type: ignore[index]


def test_cache_folder_is_the_variable_or_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETO_DATA_DIR", os.path.join("~", "somewhere"))
    assert data.cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("ETO_DATA_DIR")
    assert data.cache_dir().name == "eto-gym"
    assert data.cache_dir().is_absolute()


def test_path_says_which_command_gets_what_is_missing(cache: Path, toy: Path) -> None:
    assert data.find("toy", manifest_path=toy) is None
    with pytest.raises(DataNotFoundError, match=r"toy/words\.txt, toy/counts\.json .*") as error:
        data.path("toy", manifest_path=toy)
    assert "`eto data download toy`" in str(error.value)
    assert str(cache) in str(error.value)
    data.download("toy/counts.json", manifest_path=toy)
    assert data.path("toy/counts.json", manifest_path=toy) == cache / "toy" / "counts.json"
    with pytest.raises(DataNotFoundError, match=r"^toy/words\.txt not in"):
        data.path("toy", manifest_path=toy)


def test_group_is_found_as_its_folder(cache: Path, toy: Path) -> None:
    assert data.download("toy", manifest_path=toy) == [
        cache / "toy" / "words.txt",
        cache / "toy" / "counts.json",
    ]
    assert data.find("toy", manifest_path=toy) == cache / "toy"
    assert data.path("toy", manifest_path=toy) == cache / "toy"
    assert data.find("other", manifest_path=toy) is None


def test_status_and_verify_tell_missing_damaged_and_right(cache: Path, toy: Path) -> None:
    data.download("toy", manifest_path=toy)
    words, counts = cache / "toy" / "words.txt", cache / "toy" / "counts.json"
    counts.write_bytes(COUNTS[::-1])
    rows = data.status(manifest_path=toy)
    assert [(row.file.name, row.present, row.size_ok) for row in rows] == [
        ("toy/words.txt", True, True),
        ("toy/counts.json", True, True),  # only sizes are looked at
        ("other/counts.json", False, False),
    ]
    verdicts = data.verify(manifest_path=toy)
    assert [verdict.state for verdict in verdicts] == ["ok", "corrupt", "missing"]
    assert "SHA-256 is" in verdicts[1].detail
    assert "`eto data download other`" in verdicts[2].detail

    words.write_bytes(WORDS[:-1])
    assert [row.size_ok for row in data.status("toy/words.txt", manifest_path=toy)] == [False]
    assert data.find("toy/words.txt", manifest_path=toy) is None
    (verdict,) = data.verify("toy/words.txt", manifest_path=toy)
    assert verdict.state == "corrupt"
    assert f"it has {len(WORDS) - 1} bytes, expected {len(WORDS)}" in verdict.detail


def test_download_replaces_only_what_is_wrong(cache: Path, server: FileServer, toy: Path) -> None:
    data.download("toy", manifest_path=toy)
    (cache / "toy" / "counts.json").write_bytes(COUNTS[::-1])
    server.requests.clear()
    data.download("toy", manifest_path=toy)
    assert server.requests == [("counts.json", "")]
    assert {verdict.state for verdict in data.verify("toy", manifest_path=toy)} == {"ok"}
    data.download("toy/words.txt", force=True, manifest_path=toy)
    assert server.requests[1:] == [("words.txt", "")]


def test_interrupted_download_resumes(cache: Path, server: FileServer, toy: Path) -> None:
    server.files["/words.txt"].breaks = [2 * CHUNK_BYTES]
    data.download("toy/words.txt", manifest_path=toy)
    assert server.requests == [("words.txt", ""), ("words.txt", f"bytes={2 * CHUNK_BYTES}-")]
    assert (cache / "toy" / "words.txt").read_bytes() == WORDS


def test_wrong_bytes_leave_nothing_in_place(cache: Path, server: FileServer, toy: Path) -> None:
    server.add("counts.json", COUNTS[::-1])
    with pytest.raises(CorruptDataError, match=r"SHA-256 is .* expected"):
        data.download("toy/counts.json", manifest_path=toy)
    assert data.find("toy/counts.json", manifest_path=toy) is None


def test_no_network_names_the_address_and_the_mirror_variable(tmp_path: Path) -> None:
    with serve_files() as stopped:
        url = stopped.url
    nowhere = write_manifest(tmp_path / "manifest.toml", url)
    with pytest.raises(DataError) as error:
        data.download("other", manifest_path=nowhere)
    assert f"{url}/counts.json: no connection: " in str(error.value)
    assert "ETO_DATA_MIRROR" in str(error.value)
    assert "elsewhere/counts.json" in str(error.value)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("webshop-smal", "did you mean 'webshop-small'?"),
        ("eto-sft/webshop.json", "did you mean 'eto-sft/webshop_sft.json'?"),
    ],
)
def test_unknown_names_get_a_suggestion(name: str, suggestion: str) -> None:
    for function in (data.find, data.path, data.status, data.verify, data.download):
        with pytest.raises(UnknownNameError, match=re.escape(suggestion)):
            function(name)


def test_mirror_folder_is_tried_first_and_checked(
    cache: Path, server: FileServer, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    for place, content in {"elsewhere/counts.json": COUNTS, "toy/words.txt": WORDS[::-1]}.items():
        (mirror / place).parent.mkdir(parents=True)
        (mirror / place).write_bytes(content)
    monkeypatch.setenv("ETO_DATA_MIRROR", str(mirror))
    data.download("other", manifest_path=toy)
    assert server.requests == []
    data.download("toy", manifest_path=toy)  # one is wrong in the mirror, one is not there
    assert server.requests == [("words.txt", ""), ("counts.json", "")]
    assert (cache / "toy" / "words.txt").read_bytes() == WORDS


def test_mirror_can_be_an_address(
    server: FileServer, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("mirror/elsewhere/counts.json", COUNTS)
    monkeypatch.setenv("ETO_DATA_MIRROR", f"{server.url}/mirror/")
    data.download("other", manifest_path=toy)
    assert server.requests == [("mirror/elsewhere/counts.json", "")]


def test_progress_bar_is_shown_on_standard_error(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.download("toy/counts.json", manifest_path=toy)
    assert capsys.readouterr() == ("", "")
    data.download("toy/words.txt", progressbar=True, manifest_path=toy)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "toy/words.txt" in shown.err


def test_two_processes_download_once(cache: Path, server: FileServer, toy: Path) -> None:
    server.files["/words.txt"].delay_s = 1.0
    code = f"from eto_envs import data; data.download('toy/words.txt', manifest_path={str(toy)!r})"
    command = [sys.executable, "-c", code]
    workers = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    assert server.requests == [("words.txt", "")]
    assert (cache / "toy" / "words.txt").read_bytes() == WORDS


@pytest.mark.data
def test_real_splits_and_prompts_come_from_the_mirror(
    cache: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETO_DATA_MIRROR", str(shared_data / "mirror"))
    for group, n_files in {"eto-splits": 9, "eto-prompts": 6}.items():
        assert len(data.download(group)) == n_files
        assert [verdict.state for verdict in data.verify(group)] == ["ok"] * n_files
    assert data.path("eto-splits") == cache / "eto" / "eval_agent" / "data"
    for name in ("train_indices.json", "test_indices.json"):
        (place,) = data.download(f"webshop/{name}")
        assert place == cache / "webshop" / "full" / name


@pytest.mark.data
def test_every_mirrored_file_is_in_the_manifest(shared_data: Path) -> None:
    lines = (shared_data / "mirror" / "eto" / "SHA256SUMS").read_text().splitlines()
    recorded = {line.split()[1].replace("./", "eto/", 1): line.split()[0] for line in lines}
    groups = data.manifest()
    files = (*groups["eto-splits"], *groups["eto-prompts"])
    assert {file.mirror: file.sha256 for file in files} == recorded
