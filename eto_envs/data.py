"""The official data files: which ones exist, where they are stored, and how to download them.

`manifest.toml` lists every file with its URLs, size, SHA-256 and licence. Files are stored in
`cache_dir()`. Only `download` accesses the network: neither an import nor `reset` ever does. Not
here: the transfer itself (`eto_envs.fetch`) and the use of the files (the worlds' packages).
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from eto_envs.errors import CorruptDataError, DataNotFoundError, UnknownNameError
from eto_envs.fetch import Content, fetch, find_mismatch
from eto_envs.files import parse_toml, read_text

DATA_DIR_VARIABLE = "ETO_DATA_DIR"
MIRROR_VARIABLE = "ETO_DATA_MIRROR"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One official file.

    Attributes:
        name: its name, ``"<group>/<short name>"``.
        group: the group it is downloaded with, such as ``"webshop-small"``.
        path: its path relative to the cache folder, with ``/``.
        mirror: its path in a mirror.
        urls: its official URLs, in the order they are tried.
        size_bytes: its size, None if unknown.
        sha256: its SHA-256, None if unknown.
        licence: the terms under which it is distributed.
        source: who distributes it.
        description: what it contains.
    """

    name: str
    group: str
    path: str
    mirror: str
    urls: tuple[str, ...]
    size_bytes: int | None
    sha256: str | None
    licence: str
    source: str
    description: str

    @property
    def content(self) -> Content:
        """The expected size and hash."""
        return Content(self.size_bytes, self.sha256)


class Status(NamedTuple):
    """A file and whether it is in the cache.

    Attributes:
        file: the file.
        present: whether it exists in the cache.
        size_ok: whether it has the right size; True if the size is unknown.
    """

    file: DataFile
    present: bool
    size_ok: bool


class Verdict(NamedTuple):
    """The result of verifying a file.

    Attributes:
        file: the file.
        state: the verdict.
        detail: what is wrong, or what was checked.
    """

    file: DataFile
    state: Literal["ok", "missing", "corrupt"]
    detail: str


def cache_dir() -> Path:
    """The folder for all data: ``$ETO_DATA_DIR``, or ``eto-gym`` in the user's cache folder."""
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("eto-gym"))


def manifest(manifest_path: str | Path | None = None) -> Mapping[str, tuple[DataFile, ...]]:
    """All official files by group, in the order of the manifest.

    Args:
        manifest_path: a manifest to use instead of the library's own (in all functions here).
    """
    if manifest_path is None:
        return _read_own_manifest()
    path = Path(manifest_path)
    return _parse_manifest(read_text(path), path)


def find(name: str, *, manifest_path: str | Path | None = None) -> Path | None:
    """The path of a file or group, if it is in the cache with the right size.

    Args:
        name: the name of a file or group.
        manifest_path: see `manifest`.

    Returns:
        The path of the file, or of the folder that contains the group's files; None if anything is
        missing.

    Raises:
        UnknownNameError: there is no file or group of this name.
    """
    rows = status(name, manifest_path=manifest_path)
    if not all(row.present and row.size_ok for row in rows):
        return None
    return cache_dir() / _place(name, [row.file for row in rows])


def path(name: str, *, manifest_path: str | Path | None = None) -> Path:
    """Like `find`, but raises an error if anything is missing.

    Raises:
        UnknownNameError: there is no file or group of this name.
        DataNotFoundError: something is missing; the message names the command that downloads it.
    """
    found = find(name, manifest_path=manifest_path)
    if found is not None:
        return found
    rows = status(name, manifest_path=manifest_path)
    missing = [row.file.name for row in rows if not (row.present and row.size_ok)]
    raise DataNotFoundError(
        f"{', '.join(missing)} not in {cache_dir()}; download it with `eto data download {name}`"
    )


def status(group: str | None = None, *, manifest_path: str | Path | None = None) -> list[Status]:
    """What is in the cache; compares only sizes.

    Args:
        group: the name of a group or file; None for everything.
        manifest_path: see `manifest`.

    Raises:
        UnknownNameError: there is no file or group of this name.
    """
    folder = cache_dir()
    rows = []
    for file in _select(group, manifest_path):
        place = folder / file.path
        present = place.is_file()
        size_ok = present and file.size_bytes in (None, place.stat().st_size)
        rows.append(Status(file, present, size_ok))
    return rows


def verify(group: str | None = None, *, manifest_path: str | Path | None = None) -> list[Verdict]:
    """Check the size and SHA-256 of what is in the cache.

    Args:
        group: the name of a group or file; None for everything.
        manifest_path: see `manifest`.

    Raises:
        UnknownNameError: there is no file or group of this name.
    """
    return [_verdict(file) for file in _select(group, manifest_path)]


def download(
    name: str,
    *,
    progressbar: bool = False,
    force: bool = False,
    manifest_path: str | Path | None = None,
) -> list[Path]:
    """Download the files that are missing or corrupt.

    ``$ETO_DATA_MIRROR``, a folder or an HTTP URL, is tried before the official URLs. An interrupted
    download is resumed. If several processes request a file, one downloads it and the others wait.

    Args:
        name: the name of a group or file.
        progressbar: show a progress bar on standard error.
        force: download the files even if they are intact.
        manifest_path: see `manifest`.

    Returns:
        The paths of the files in the cache, in the order of the manifest.

    Raises:
        UnknownNameError: there is no file or group of this name.
        CorruptDataError: the sources deliver something else; nothing has been replaced.
        DataError: no source could be reached or has the file, or the disk is full.
    """
    return [_get(file, progressbar, force) for file in _select(name, manifest_path)]


def _get(file: DataFile, progressbar: bool, force: bool) -> Path:
    from filelock import FileLock

    target = cache_dir() / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        # Checked under the lock: another process may have downloaded the file in the meantime.
        if force or _verdict(file).state != "ok":
            hint = (
                f"Check the network, or set {MIRROR_VARIABLE} to a folder or an HTTP URL that"
                f" contains {file.mirror}."
            )
            with _progress(file, progressbar) as on_progress:
                fetch(_sources(file), target, file.content, on_progress=on_progress, hint=hint)
    return target


def _sources(file: DataFile) -> list[str | Path]:
    mirror = os.environ.get(MIRROR_VARIABLE)
    if not mirror:
        return list(file.urls)
    if mirror.startswith(("http://", "https://")):
        return [f"{mirror.rstrip('/')}/{file.mirror}", *file.urls]
    return [Path(mirror).expanduser() / file.mirror, *file.urls]


def _verdict(file: DataFile) -> Verdict:
    place = cache_dir() / file.path
    if not place.is_file():
        return Verdict(file, "missing", f"download it with `eto data download {file.group}`")
    mismatch = find_mismatch(place, file.content)
    if mismatch:
        return Verdict(file, "corrupt", f"{mismatch}; `eto data download {file.group}` replaces it")
    return Verdict(
        file, "ok", "SHA-256" if file.sha256 else "no known hash; the archive is complete"
    )


@contextlib.contextmanager
def _progress(file: DataFile, shown: bool) -> Iterator[Callable[[int], object]]:
    """A callback for the number of bytes downloaded so far, which drives the progress bar."""
    if not shown:
        yield lambda n_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(file.name, total=file.size_bytes)
        yield lambda n_bytes: bar.update(task, completed=n_bytes)


def _select(name: str | None, manifest_path: str | Path | None) -> tuple[DataFile, ...]:
    groups = manifest(manifest_path)
    files = {file.name: file for group in groups.values() for file in group}
    if name is None:
        return tuple(files.values())
    if name in groups:
        return groups[name]
    if name in files:
        return (files[name],)
    hint = "`eto data list` shows all groups and files."
    raise UnknownNameError("data group or file", name, [*groups, *files], hint)


def _place(name: str, files: list[DataFile]) -> str:
    """The path of `name` in the cache: the file, or the folder that contains the group's files."""
    if len(files) == 1 and files[0].name == name:
        return files[0].path
    return os.path.commonpath([os.path.dirname(file.path) for file in files])


@functools.cache
def _read_own_manifest() -> Mapping[str, tuple[DataFile, ...]]:
    from importlib import resources

    file = resources.files("eto_envs").joinpath("manifest.toml")
    return _parse_manifest(file.read_text(encoding="utf-8"), file)


def _parse_manifest(text: str, place: object) -> Mapping[str, tuple[DataFile, ...]]:
    """Groups of files; the ``licence`` and ``source`` of a group apply to its files."""
    groups = {}
    for group, table in parse_toml(text, place).items():
        try:
            shared = {key: table[key] for key in ("licence", "source")}
            groups[group] = tuple(_data_file(group, shared | entry) for entry in table["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(
                f"{place}: [{group}] is no group of files ({error!r})"
            ) from error
    return MappingProxyType(groups)


def _data_file(group: str, entry: Mapping[str, Any]) -> DataFile:
    values = {"mirror": entry["path"], "size_bytes": None, "sha256": None, **entry}
    values |= {"name": f"{group}/{entry['name']}", "urls": tuple(entry["urls"])}
    file = DataFile(group=group, **values)
    for name in ("path", "mirror"):
        path = PurePosixPath(getattr(file, name))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name} {str(path)!r} leads out of the folder")
    texts = (file.licence, file.source, file.description, file.sha256 or "", *file.urls)
    if not all(isinstance(text, str) for text in texts) or not _is_size(file.size_bytes):
        raise ValueError(f"a field of {file.name} has the wrong type")
    return file


def _is_size(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)
