"""The manifest of a bundle, ``bundle.json``, and the checks against it.

Opening a bundle compares the sizes of its files, which is cheap; `verify_bundle` compares their
hashes. The manifest is the last file that `bundle.build_bundle` writes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import sha256_of

FORMAT = 2
MANIFEST = "bundle.json"
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
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version, files = manifest["format"], dict(manifest["files"])
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{folder} does not contain a bundle (no {MANIFEST}). {REBUILD}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{path} is damaged: {error!r}. {REBUILD}") from error
    if version != FORMAT:
        raise CorruptDataError(
            f"{folder} has bundle format {version!r}; this version reads {FORMAT}. {REBUILD}"
        )
    for name, stamp in files.items():
        file = folder / name
        size = os.path.getsize(file) if file.is_file() else None
        if size != stamp["size"]:
            raise CorruptDataError(f"{file} has {size} bytes, expected {stamp['size']}. {REBUILD}")
    return manifest


def verify_bundle(folder: Path) -> None:
    """Compare every file of a bundle with its recorded SHA-256.

    Raises:
        DataNotFoundError: the folder does not contain a bundle.
        CorruptDataError: a file has been altered.
    """
    for name, stamp in read_manifest(folder)["files"].items():
        if file_stamp(folder / name) != stamp:
            raise CorruptDataError(f"{folder / name} has been altered. {REBUILD}")
