"""The manifest of a bundle, ``bundle.json``, and the checks against it.

Opening a bundle compares the sizes of its files, which is cheap; `verify_bundle` compares their
hashes, which opening does for small bundles, too. The manifest is the last file that
`bundle.build_bundle` writes.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import read_json_object, sha256_of

FORMAT = 2
MANIFEST = "bundle.json"
FILES = {
    *("products.jsonl", "human.jsonl", "synthetic.jsonl", "groups.json", "splits.json"),
    "index/index.json",
}
"""The files that every bundle lists, besides its arrays."""

REBUILD = "To rebuild it, run `eto data build webshop FOLDER`."


def file_stamp(path: Path) -> dict[str, Any]:
    """The size in bytes and the SHA-256 of a file, as recorded in ``bundle.json``."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def is_bundle(folder: Path) -> bool:
    """Whether a folder contains a bundle, which may be damaged (see `read_manifest`)."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of ``bundle.json``, after checking that all files have the right size.

    Raises:
        DataNotFoundError: the folder does not contain a bundle.
        CorruptDataError: a file is missing or has the wrong size, or the format is unknown.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataNotFoundError(f"{folder} does not contain a bundle (no {MANIFEST}). {REBUILD}")
    manifest = read_json_object(path, REBUILD)
    version = manifest.get("format")
    if version != FORMAT:
        raise CorruptDataError(
            f"{folder} has bundle format {version!r:.80}; this version reads {FORMAT}. {REBUILD}"
        )
    for key, kind in {"dataset": str, "nouns": str, "price_seed": int, "files": dict}.items():
        if type(manifest.get(key)) is not kind:
            raise CorruptDataError(f"{path} is damaged: no usable {key!r}. {REBUILD}")
    missing = FILES - manifest["files"].keys()
    if missing:
        raise CorruptDataError(f"{path} is damaged: it has no {min(missing)}. {REBUILD}")
    for name, stamp in manifest["files"].items():
        if not isinstance(stamp, dict) or not stamp.keys() >= {"size", "sha256"}:
            raise CorruptDataError(f"{path} is damaged: {name!r} has no stamp. {REBUILD}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CorruptDataError(f"{path} is damaged: {name!r} is outside. {REBUILD}")
        file = folder / name
        size = os.path.getsize(file) if file.is_file() else None
        if size != stamp["size"]:
            raise CorruptDataError(f"{file} has {size} bytes, expected {stamp['size']}. {REBUILD}")
    return manifest


def verify_bundle(folder: Path, max_bytes: int | None = None) -> dict[str, Any]:
    """Compare the files of a bundle with their recorded SHA-256.

    Args:
        folder: the bundle.
        max_bytes: compare only if all files together are at most this large; by default always.

    Returns:
        The content of ``bundle.json``.

    Raises:
        DataNotFoundError: the folder does not contain a bundle.
        CorruptDataError: a file has been altered.
    """
    manifest = read_manifest(folder)
    files = manifest["files"]
    if max_bytes is None or sum(stamp["size"] for stamp in files.values()) <= max_bytes:
        for name, stamp in files.items():
            if file_stamp(folder / name) != stamp:
                raise CorruptDataError(f"{folder / name} has been altered. {REBUILD}")
    return manifest
