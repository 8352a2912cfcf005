from __future__ import annotations

import hashlib
import io
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from eto_envs.errors import CorruptDataError, DataError
from eto_envs.fetch import CHUNK_BYTES, N_FRUITLESS, Content, fetch, find_mismatch
from tests.file_server import FileServer, serve_files

BYTES = bytes(i * 7 % 251 for i in range(5 * CHUNK_BYTES))
OTHER = bytes(reversed(BYTES))


def content_of(data: bytes) -> Content:
    return Content(len(data), hashlib.sha256(data).hexdigest())


RIGHT = content_of(BYTES)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files() as files:
        yield files


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.bin"


@pytest.fixture
def no_server_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/file.bin"


def part_of(target: Path) -> Path:
    return target.with_name(f".part-{target.name}")


def test_file_comes_whole_and_nothing_else_stays(server: FileServer, target: Path) -> None:
    server.add("file.bin", BYTES)
    seen: list[int] = []
    fetch([f"{server.url}/file.bin"], target, RIGHT, on_progress=seen.append)
    assert target.read_bytes() == BYTES
    assert seen[-1] == len(BYTES)
    assert list(target.parent.iterdir()) == [target]


def test_broken_transfer_goes_on_where_it_stopped(server: FileServer, target: Path) -> None:
    server.add("file.bin", BYTES).breaks = [2 * CHUNK_BYTES + 9, CHUNK_BYTES]
    fetch([f"{server.url}/file.bin"], target, RIGHT, pause_s=0)
    assert target.read_bytes() == BYTES
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == ["", f"bytes={2 * CHUNK_BYTES}-", f"bytes={3 * CHUNK_BYTES}-"]


def test_given_up_transfer_goes_on_in_the_next_call(server: FileServer, target: Path) -> None:
    server.add("file.bin", BYTES).breaks = [CHUNK_BYTES, *[1_000] * N_FRUITLESS]
    with pytest.raises(DataError, match=f"interrupted after {CHUNK_BYTES} bytes"):
        fetch([f"{server.url}/file.bin"], target, RIGHT, pause_s=0)
    assert not target.exists()
    assert part_of(target).read_bytes() == BYTES[:CHUNK_BYTES]
    fetch([f"{server.url}/file.bin"], target, RIGHT, pause_s=0)
    assert target.read_bytes() == BYTES
    assert server.requests[-1] == ("file.bin", f"bytes={CHUNK_BYTES}-")


def test_other_source_goes_on_too(server: FileServer, target: Path) -> None:
    server.add("one/file.bin", BYTES).breaks = [CHUNK_BYTES, *[1_000] * N_FRUITLESS]
    server.add("two/file.bin", BYTES)
    urls = [f"{server.url}/one/file.bin", f"{server.url}/two/file.bin"]
    fetch(urls, target, RIGHT, pause_s=0)
    assert target.read_bytes() == BYTES
    assert server.requests[-1] == ("two/file.bin", f"bytes={CHUNK_BYTES}-")


def test_server_without_ranges_starts_again(server: FileServer, target: Path) -> None:
    file = server.add("file.bin", BYTES)
    file.ranges, file.breaks = False, [CHUNK_BYTES]
    fetch([f"{server.url}/file.bin"], target, RIGHT, pause_s=0)
    assert target.read_bytes() == BYTES
    assert server.requests[1] == ("file.bin", f"bytes={CHUNK_BYTES}-")


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(OTHER[:9_000], id="part of another file"),
        pytest.param(OTHER, id="another whole file"),
        pytest.param(BYTES + b"more", id="longer than the file"),
    ],
)
def test_wrong_part_file_is_thrown_away(server: FileServer, target: Path, kept: bytes) -> None:
    server.add("file.bin", BYTES)
    target.parent.mkdir()
    part_of(target).write_bytes(kept)
    fetch([f"{server.url}/file.bin"], target, RIGHT, pause_s=0)
    assert target.read_bytes() == BYTES
    assert not part_of(target).exists()


def test_whole_part_file_needs_no_request(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(BYTES)
    fetch([f"{server.url}/file.bin"], target, RIGHT)
    assert target.read_bytes() == BYTES
    assert server.requests == []


def test_wrong_bytes_are_reported_with_both_hashes(server: FileServer, target: Path) -> None:
    server.add("file.bin", OTHER)
    target.parent.mkdir()
    target.write_bytes(b"what was there before")
    with pytest.raises(CorruptDataError) as error:
        fetch([f"{server.url}/file.bin"], target, RIGHT)
    assert str(RIGHT.sha256) in str(error.value)
    assert str(content_of(OTHER).sha256) in str(error.value)
    assert target.read_bytes() == b"what was there before"
    assert not part_of(target).exists()


def test_wrong_size_is_seen_before_the_transfer(server: FileServer, target: Path) -> None:
    server.add("file.bin", BYTES[:-1])
    with pytest.raises(
        CorruptDataError, match=f"it has {len(BYTES) - 1} bytes, expected {len(BYTES)}"
    ):
        fetch([f"{server.url}/file.bin"], target, RIGHT)
    assert list(target.parent.iterdir()) == []


def test_missing_file_leads_to_the_next_source(server: FileServer, target: Path) -> None:
    server.add("file.bin", BYTES)
    fetch([f"{server.url}/gone.bin", f"{server.url}/file.bin"], target, RIGHT)
    assert target.read_bytes() == BYTES
    assert server.requests == [("gone.bin", ""), ("file.bin", "")]


def test_busy_server_is_asked_again(server: FileServer, target: Path) -> None:
    server.add("file.bin", BYTES).statuses = [503, 429]
    fetch([f"{server.url}/file.bin"], target, RIGHT, pause_s=0)
    assert target.read_bytes() == BYTES


def test_error_names_every_source_with_its_reason(
    server: FileServer, target: Path, tmp_path: Path, no_server_url: str
) -> None:
    server.add("page.bin", BYTES).content_type = "text/html; charset=utf-8"
    server.add("busy.bin", BYTES).statuses = [503] * N_FRUITLESS
    copy = tmp_path / "mirror" / "file.bin"
    urls = [f"{server.url}/{name}.bin" for name in ("gone", "page", "busy")]
    with pytest.raises(DataError) as error:
        fetch([copy, *urls, no_server_url], target, RIGHT, hint="Do this.", pause_s=0)
    first, *reasons, last = str(error.value).splitlines()
    assert type(error.value) is DataError
    assert "file.bin" in first
    assert last == "Do this."
    expected = ["no such file", "HTTP 404", "received a web page", "HTTP 503", "Connection refused"]
    for source, reason, text in zip([copy, *urls, no_server_url], reasons, expected, strict=True):
        assert reason.startswith(f"  {source}: ")
        assert text in reason


def test_local_copy_is_checked(server: FileServer, target: Path, tmp_path: Path) -> None:
    server.add("file.bin", BYTES)
    copy = tmp_path / "copy.bin"
    copy.write_bytes(OTHER)
    fetch([copy, f"{server.url}/file.bin"], target, RIGHT)
    assert target.read_bytes() == BYTES
    assert copy.read_bytes() == OTHER


def test_too_large_a_file_is_not_begun(server: FileServer, target: Path) -> None:
    huge = Content(10**18, RIGHT.sha256)
    with pytest.raises(DataError, match=r"1000000000\.00 GB more are needed .* \$ETO_DATA_DIR"):
        fetch([f"{server.url}/file.bin"], target, huge)
    assert server.requests == []


def test_without_a_hash_nothing_is_mixed_and_archives_are_tested(
    server: FileServer, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", BYTES)
    target = tmp_path / "a.zip"
    server.add("a.zip", buffer.getvalue()).breaks = [9_000]
    fetch([f"{server.url}/a.zip"], target, Content(), pause_s=0)
    assert target.read_bytes() == buffer.getvalue()
    assert server.requests == [("a.zip", "")] * 2

    damaged = bytearray(buffer.getvalue())
    damaged[10_000] ^= 1
    for wrong in (bytes(damaged), BYTES):
        server.add("a.zip", wrong)
        with pytest.raises(CorruptDataError, match="not a complete zip archive"):
            fetch([f"{server.url}/a.zip"], target, Content())
    assert target.read_bytes() == buffer.getvalue()


def test_find_mismatch_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(BYTES)
    assert find_mismatch(file, RIGHT) is None
    assert find_mismatch(file, Content()) is None
    assert find_mismatch(file, Content(3)) == f"it has {len(BYTES)} bytes, expected 3"
    assert "SHA-256 is" in str(find_mismatch(file, Content(None, "0" * 64)))


def test_a_transfer_stops_at_the_declared_size(server: FileServer, target: Path) -> None:
    endless = server.add("file.bin", BYTES * 20)
    endless.has_length = False
    seen: list[int] = []
    with pytest.raises(CorruptDataError, match=f"it has more than {len(BYTES)} bytes"):
        fetch([f"{server.url}/file.bin"], target, RIGHT, on_progress=seen.append)
    assert seen[-1] == len(BYTES)
    assert list(target.parent.iterdir()) == []


def test_a_transfer_of_unknown_size_has_a_limit(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eto_envs.fetch.MAX_BYTES", 2 * CHUNK_BYTES)
    server.add("file.bin", BYTES).has_length = False
    with pytest.raises(CorruptDataError, match=f"it has more than {2 * CHUNK_BYTES} bytes"):
        fetch([f"{server.url}/file.bin"], target, Content())
    assert list(target.parent.iterdir()) == []


def test_a_local_copy_stops_at_the_declared_size(target: Path, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(BYTES * 3)
    seen: list[int] = []
    with pytest.raises(CorruptDataError, match=f"it has more than {len(BYTES)} bytes"):
        fetch([tmp_path / "file.bin"], target, RIGHT, on_progress=seen.append)
    assert seen[-1] == len(BYTES)


def test_a_transfer_that_only_trickles_is_given_up(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eto_envs.fetch.STALL_S", 0.05)
    server.add("slow.bin", BYTES).drip_bytes = 1
    server.add("file.bin", BYTES)
    with pytest.raises(DataError, match=f"less than {CHUNK_BYTES} bytes in 0.05 s"):
        fetch([f"{server.url}/slow.bin"], target, RIGHT, pause_s=0)
    assert len(server.requests) == N_FRUITLESS
    fetch([f"{server.url}/slow.bin", f"{server.url}/file.bin"], target, RIGHT, pause_s=0)
    assert target.read_bytes() == BYTES


def test_a_slow_but_steady_transfer_is_not_given_up(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eto_envs.fetch.STALL_S", 5.0)
    server.add("file.bin", BYTES).drip_bytes = CHUNK_BYTES // 4
    fetch([f"{server.url}/file.bin"], target, RIGHT)
    assert target.read_bytes() == BYTES
    assert len(server.requests) == 1
