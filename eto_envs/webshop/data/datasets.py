"""Which bundle a dataset's name means."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

from eto_envs.errors import DataNotFoundError, UnknownNameError
from eto_envs.webshop.data.manifest import is_bundle
from eto_envs.webshop.data.shop import ensure_bundle

MINI = Path(__file__).parents[1] / "mini" / "bundle"
OFFICIAL = {"full": "webshop", "small": "webshop-small"}
"""Official datasets, best first, and the name under which `eto data download` knows them."""


def bundles_dir() -> Path:
    """Where built bundles are kept, inside the data cache."""
    from eto_envs.data import cache_dir

    return cache_dir() / "bundles" / "webshop"


def find_bundle(dataset: str) -> Path:
    """The bundle's folder of a dataset.

    Args:
        dataset: ``"auto"``, ``"mini"``, ``"small"``, ``"full"``, or a folder: a bundle, or the
            official files, from which a bundle is built once (in the data cache).

    Raises:
        DataNotFoundError: an official dataset is not on this machine, or a folder lacks files.
        UnknownNameError: neither a name nor a folder.
    """
    if dataset == "mini":
        return MINI
    if dataset == "auto":
        return _find_best()
    if dataset in OFFICIAL:
        folder = bundles_dir() / dataset
        if not is_bundle(folder):
            raise DataNotFoundError(
                f"WebShop's dataset {dataset!r} is not on this machine; get it with "
                f"`eto data download {OFFICIAL[dataset]}` and `eto data build webshop {dataset}`"
            )
        return folder
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        known = ("auto", "mini", *OFFICIAL)
        raise UnknownNameError("dataset", dataset, known, "Or name a folder of official files.")
    return ensure_bundle(folder, bundles_dir())


def _find_best() -> Path:
    for dataset in OFFICIAL:
        folder = bundles_dir() / dataset
        if is_bundle(folder):
            return folder
    _warn_once()
    return MINI


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "WebShop plays the embedded mini dataset, whose scores compare with nothing published. "
        "For the official data run `eto data download webshop` and `eto data build webshop full`; "
        "dataset='mini' silences this.",
        UserWarning,
        stacklevel=2,
    )
