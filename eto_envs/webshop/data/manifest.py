"""``bundle.json``, which says what a bundle is made of, and the checks against it.

Opening a bundle compares the sizes of its files, which is cheap; `verify_bundle` compares their
hashes. The manifest is written by `bundle.build_bundle`, last of all.
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
BUILD_AGAIN = "Build it again: `eto data build webshop FOLDER`."


def file_stamp(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as ``bundle.json`` records them."""
    return {"size": path.stat().st_size, "sha256": sha256_of(path)}


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle; whether it is sound is for `read_manifest`."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The bundle's ``bundle.json``, after a check that every file is there in full size.

    Raises:
        DataNotFoundError: the folder holds no bundle.
        CorruptDataError: a file is missing or has another size, or the format is another one.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version, files = manifest["format"], dict(manifest["files"])
    except FileNotFoundError as error:
        raise DataNotFoundError(
            f"{folder} holds no bundle (no {MANIFEST}). {BUILD_AGAIN}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{path} is damaged: {error!r}. {BUILD_AGAIN}") from error
    if version != FORMAT:
        raise CorruptDataError(
            f"{folder} has bundle format {version!r}; this version reads {FORMAT}. {BUILD_AGAIN}"
        )
    for name, stamp in files.items():
        file = folder / name
        size = os.path.getsize(file) if file.is_file() else None
        if size != stamp["size"]:
            raise CorruptDataError(
                f"{file} has {size} bytes where {stamp['size']} are expected. {BUILD_AGAIN}"
            )
    return manifest


def verify_bundle(folder: Path) -> None:
    """Compare every file of a bundle with its recorded SHA-256; reads all of it.

    Raises:
        DataNotFoundError: the folder holds no bundle.
        CorruptDataError: a file is not what was built.
    """
    for name, stamp in read_manifest(folder)["files"].items():
        if file_stamp(folder / name) != stamp:
            raise CorruptDataError(f"{folder / name} was altered after the build. {BUILD_AGAIN}")
