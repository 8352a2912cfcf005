"""Finds the bundle of a dataset, given its name or path."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

from eto_envs.errors import DataNotFoundError, UnknownNameError
from eto_envs.webshop.data.manifest import is_bundle
from eto_envs.webshop.data.shop import ensure_bundle

MINI = Path(__file__).parents[1] / "mini" / "bundle"
OFFICIAL = {"full": "webshop", "small": "webshop-small"}
"""The official datasets, best first, with their group names for `eto data download`."""


def bundles_dir() -> Path:
    """The folder for bundles in the data cache."""
    from eto_envs.data import cache_dir

    return cache_dir() / "bundles" / "webshop"


def find_bundle(dataset: str) -> Path:
    """The folder of a dataset's bundle.

    Args:
        dataset: ``"auto"``, ``"mini"``, ``"small"``, ``"full"``, or a folder: either a bundle, or
            official files from which a bundle is built once (in the data cache).

    Raises:
        DataNotFoundError: an official dataset is not on this machine, or a folder lacks files.
        UnknownNameError: `dataset` is neither a known name nor a folder.
    """
    if dataset == "mini":
        return MINI
    if dataset == "auto":
        return _find_best()
    if dataset in OFFICIAL:
        folder = bundles_dir() / dataset
        if not is_bundle(folder):
            raise DataNotFoundError(
                f"WebShop's dataset {dataset!r} is not on this machine; to get it, run "
                f"`eto data download {OFFICIAL[dataset]}` and `eto data build webshop {dataset}`"
            )
        return folder
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        known = ("auto", "mini", *OFFICIAL)
        hint = "It can also be a folder of official files."
        raise UnknownNameError("dataset", dataset, known, hint)
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
        "using the embedded mini dataset of WebShop; scores are not comparable with published "
        "results. For the official data, run `eto data download webshop` and `eto data build "
        "webshop full`; to silence this warning, pass dataset='mini'.",
        UserWarning,
        stacklevel=2,
    )
