"""`eto data`: list, download, verify, locate and build the official datasets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tyro.conf import Positional

from eto_agents.console import show, table
from eto_envs.errors import UnknownNameError

Progress: TypeAlias = Callable[[str, int], None]


def list_files() -> None:
    """List every official file with its group, size and licence, and whether it is downloaded.

    For example:
        eto data list
    """
    from eto_envs import data

    rows = []
    for row in data.status():
        here = "–" if not row.present else "yes" if row.size_ok else "wrong size"
        file = row.file
        rows.append((file.group, file.name, _size(file.size_bytes), here, file.licence))
    headings = ("group", "file", "size", "here", "licence")
    show(table(headings, rows), f"cache: {data.cache_dir()} ($ETO_DATA_DIR)")


def download(name: Positional[str], force: bool = False, quiet: bool = False) -> None:
    """Download a group of files, or one file. Rerun the command to resume an interrupted download.

    For example:
        eto data download webshop-small

    Args:
        name: Group, such as webshop-small or eto-splits, or name of a file; see `eto data list`.
        force: Download files again that are there already.
        quiet: Show no progress bar.
    """
    from eto_envs import data

    for path in data.download(name, progressbar=not quiet, force=force):
        show(str(path))


def verify(name: Positional[str | None] = None) -> None:
    """Check the SHA-256 of downloaded files. The exit code is 1 if any is corrupt.

    For example:
        eto data verify webshop-small

    Args:
        name: Group or file to check; by default all.
    """
    from eto_envs import data

    verdicts = data.verify(name)
    for verdict in verdicts:
        file = verdict.file
        show(f"{verdict.state:8} {file.group}/{file.name} {verdict.detail}".rstrip())
    if any(verdict.state == "corrupt" for verdict in verdicts):
        sys.exit(1)


def path(name: Positional[str]) -> None:
    """Print the path of a downloaded file or group.

    For example:
        eto data path eto-splits/webshop/test_indices.json

    Args:
        name: Group or file; see `eto data list`.
    """
    from eto_envs import data

    show(str(data.path(name)))


def build(
    world: Positional[Literal["webshop", "alfworld"]],
    source: Positional[str | None] = None,
    target: Path | None = None,
    price_seed: int | None = None,
    nouns: Literal["auto", "file", "spacy", "heuristic"] = "auto",
    spacy_model: str | None = None,
    quiet: bool = False,
) -> None:
    """Build a dataset that an environment can open from official files.

    For example:
        eto data build webshop small
        eto data build alfworld json_2.1.2_tw-pddl.zip

    Args:
        world: World to build for: webshop or alfworld.
        source: Official files. For webshop: full or small (download them first), or a folder with
            items_shuffle.json, items_ins_v2.json and items_human_ins.json. For alfworld: a folder
            or zip file of either release; by default the downloaded one.
        target: WebShop only: folder to write; by default where dataset=SOURCE looks for it.
        price_seed: WebShop only: seed of ranged prices and price caps.
        nouns: WebShop only: source of the nouns in product names: nouns.json in the folder (file),
            spaCy, or a list of function words (heuristic); auto takes the first that is available.
        spacy_model: WebShop only: name or folder of a spaCy model.
        quiet: Show no progress.
    """
    from eto_agents.cli.evaluation import given

    options = given(target=target, price_seed=price_seed, spacy_model=spacy_model)
    with _Stages(quiet) as progress:
        if world == "webshop":
            built, about = _build_webshop(source, progress, nouns=nouns, **options)
        elif options:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
            raise UnknownNameError("option of alfworld", names, (), "It is for webshop only.")
        else:
            built, about = _build_alfworld(source, progress)
    show(str(built), about)


def _build_webshop(
    source: str | None, progress: Progress, target: Path | None = None, **options: Any
) -> tuple[Path, str]:
    from eto_envs import data
    from eto_envs.webshop.data import datasets
    from eto_envs.webshop.data.bundle import build_bundle
    from eto_envs.webshop.data.shop import cached_bundle

    if source in datasets.OFFICIAL:
        folder = data.path(datasets.OFFICIAL[source])
        place = datasets.bundles_dir() / source
        options["dataset"] = source
    elif source is not None and Path(source).expanduser().is_dir():
        folder = Path(source).expanduser()
        _, place = cached_bundle(folder, datasets.bundles_dir())
    else:
        known = tuple(datasets.OFFICIAL)
        raise UnknownNameError("dataset", source, known, "Or name a folder of official files.")
    built = build_bundle(folder, target or place, progress=progress, **options)
    return built, _splits(built)


def _build_alfworld(source: str | None, progress: Progress) -> tuple[Path, str]:
    from eto_envs import data
    from eto_envs.alfworld.data.datasets import build_official, open_pack

    zips = ("alfworld/json_2.1.2_tw-pddl.zip", "alfworld/json_2.1.1_tw-pddl.zip")
    if source is None:
        name = next((name for name in zips if data.find(name)), zips[0])
        official = data.path(name)
    else:
        official = Path(source).expanduser()
    built = build_official(official, progress)
    splits = open_pack(built).splits
    return built, "; ".join(f"{split}: {len(games)} games" for split, games in splits.items())


def export(
    world: Positional[Literal["alfworld"]],
    target: Positional[Path],
    split: str = "seen",
    grammar: Literal["2.1.1", "2.1.2"] = "2.1.1",
    dataset: str = "mini",
    template: Path | None = None,
) -> None:
    """Export games as game files that the original ALFWorld engine loads.

    For example:
        eto data export alfworld runs/games --split seen

    Args:
        world: World to export: alfworld.
        target: Folder to write to.
        split: Split to export.
        grammar: ALFWorld release whose wording the games use.
        dataset: Dataset to export: mini, or an official name.
        template: Official game file that provides the domain and grammar texts; by default those of
            the installed alfworld package.
    """
    from eto_envs.alfworld.data.datasets import open_dataset, task_set
    from eto_envs.alfworld.data.export import export_games

    tasks = task_set(open_dataset(dataset), split)
    written = export_games(tasks, target, grammar, dataset=dataset, template=template)
    show(f"{len(written)} games in {target}")


def _splits(bundle: Path) -> str:
    """The sizes of the splits, and how many goals of train are also in a test split."""
    from eto_envs.webshop.data.shop import open_shop

    splits = open_shop(bundle).splits
    parts = [f"{split}: {len(indices)} goals" for split, indices in splits.items()]
    n_shared = len(splits["train"]) - len(splits["train_clean"])
    if n_shared:
        parts.append(f"{n_shared} goals of train are also in a test split (not in train_clean)")
    return "; ".join(parts)


class _Stages:
    """Shows a build's progress: a counter in a terminal, elsewhere one line per stage."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._stage = ""

    def __enter__(self) -> Progress:
        return (lambda stage, n: None) if self._quiet else self._show

    def __exit__(self, *_: object) -> None:
        if self._stage and self._live:
            sys.stderr.write("\n")

    def _show(self, stage: str, n: int) -> None:
        if self._live:
            sys.stderr.write(("\n" if stage != self._stage and self._stage else "") + "\r")
            sys.stderr.write(f"{stage}: {n:,} ")
        elif stage != self._stage:
            sys.stderr.write(f"{stage} …\n")
        sys.stderr.flush()
        self._stage = stage


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "?"
    from rich.filesize import decimal

    return decimal(n_bytes)


COMMANDS: Mapping[str, Callable[..., None]] = {
    "list": list_files,
    "download": download,
    "verify": verify,
    "path": path,
    "build": build,
    "export": export,
}
