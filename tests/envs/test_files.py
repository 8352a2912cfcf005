"""Files are written whole or not at all, and an error names the one that was meant."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from eto_envs.files import naming, write_whole


def test_a_failed_write_names_its_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder" / "a.json"
    write_whole(target, b"old")

    def fail(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() does: without a name

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match=r"a\.json") as error_info:
            write_whole(target, b"new")
    assert (error_info.value.errno, error_info.value.filename) == (errno.ENOSPC, str(target))
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["a.json"]
    target.unlink()
    target.mkdir()
    with pytest.raises(OSError, match=r"a\.json") as error_info:
        write_whole(target, b"new")
    assert error_info.value.filename == str(target)


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", 28),
        ("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0", errno.EIO),
        ("PytorchStreamWriter failed writing file data/0: file write failed", errno.EIO),
    ],
)
def test_errors_of_other_libraries_are_the_systems(message: str, number: int) -> None:
    with pytest.raises(OSError, match="runs/sft") as error_info, naming(Path("runs/sft")):
        raise RuntimeError(message)
    assert (error_info.value.errno, error_info.value.filename) == (number, "runs/sft")


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="no answer"), naming(Path("a")):
        raise RuntimeError("no answer")
    inner = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "b")
    with pytest.raises(FileNotFoundError) as error_info, naming(Path("a")):
        raise inner
    assert error_info.value.filename == "b"
    with pytest.raises(OSError, match=r"^no such model$"), naming(Path("a")):
        raise OSError("no such model")  # what transformers raises
