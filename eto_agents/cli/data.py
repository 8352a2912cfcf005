"""`eto data …`: what official data there are, getting them, checking them, building bundles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tyro.conf import Positional

from eto_envs.errors import UnknownNameError

Progress: TypeAlias = Callable[[str, int], None]


def list_files() -> None:
    """List every official file: group, size, licence, and whether it is here."""
    from eto_agents.console import table
    from eto_envs import data

    rows = []
    for row in data.status():
        here = "–" if not row.present else "yes" if row.size_ok else "wrong size"
        file = row.file
        rows.append((file.group, file.name, _size(file.size_bytes), here, file.licence))
    console = _console()
    console.print(table(("group", "file", "size", "here", "licence"), rows))
    console.print(f"cache: {data.cache_dir()} ($ETO_DATA_DIR)", highlight=False, soft_wrap=True)


def download(name: Positional[str], force: bool = False, quiet: bool = False) -> None:
    """Download a group of files, or one file. Rerun the command to resume an interrupted download.

    Args:
        name: a group such as webshop-small or eto-splits, or a file's name; see `eto data list`.
        force: download again what is here already.
        quiet: no progress bar.
    """
    from eto_envs import data

    for path in data.download(name, progressbar=not quiet, force=force):
        _console().print(f"{path}", highlight=False, soft_wrap=True)


def verify(name: Positional[str | None] = None) -> None:
    """Check the SHA-256 of what is in the cache; exit code 1 if something is corrupt.

    Args:
        name: a group or file; everything by default.
    """
    from eto_envs import data

    verdicts = data.verify(name)
    for verdict in verdicts:
        file = verdict.file
        line = f"{verdict.state:8} {file.group}/{file.name} {verdict.detail}"
        _console().print(line.rstrip(), highlight=False, soft_wrap=True)
    if any(verdict.state == "corrupt" for verdict in verdicts):
        sys.exit(1)


def path(name: Positional[str]) -> None:
    """Print where a downloaded file or group is.

    Args:
        name: a group or file; see `eto data list`.
    """
    from eto_envs import data

    _console().print(str(data.path(name)), highlight=False, soft_wrap=True)


def build(
    world: Positional[Literal["webshop", "alfworld"]],
    source: Positional[str | None] = None,
    target: Path | None = None,
    price_seed: int | None = None,
    nouns: Literal["auto", "file", "spacy", "heuristic"] = "auto",
    spacy_model: str | None = None,
    quiet: bool = False,
) -> None:
    """Build what an environment opens from official files.

    Args:
        world: webshop or alfworld.
        source: for webshop full or small (downloaded before), or a folder with
            items_shuffle.json, items_ins_v2.json and items_human_ins.json; for alfworld a folder
            or zip of either release, by default the downloaded one.
        target: webshop: the bundle's folder; by default where `dataset=SOURCE` looks for it.
        price_seed: webshop: seeds ranged prices and price caps.
        nouns: webshop: where the nouns of product names come from: nouns.json in the folder,
            spaCy, or a list of function words; auto takes the first that is there.
        spacy_model: webshop: a spaCy model's name or folder.
        quiet: no progress.
    """
    from eto_agents.cli.evaluation import given

    options = given(target=target, price_seed=price_seed, spacy_model=spacy_model)
    with _Stages(quiet) as progress:
        if world == "webshop":
            built, about = _build_webshop(source, progress, nouns=nouns, **options)
        elif options:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
            raise UnknownNameError("flag of alfworld", names, (), "It is for webshop only.")
        else:
            built, about = _build_alfworld(source, progress)
    _console().print(str(built), about, sep="\n", highlight=False, soft_wrap=True)


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
        here = next((name for name in zips if data.find(name)), zips[0])
        found = data.path(here)
    else:
        found = Path(source).expanduser()
    built = build_official(found, progress)
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
    """Write games as full game files, which the original's engine loads.

    Args:
        world: alfworld.
        target: the folder to write to.
        split: the task set.
        grammar: the release whose wording the games are to have.
        dataset: mini, or an official name.
        template: an official game file, whose domain and grammar texts are taken; by default the
            installed alfworld package's.
    """
    from eto_envs.alfworld.data.datasets import open_dataset, task_set
    from eto_envs.alfworld.data.export import export_games

    tasks = task_set(open_dataset(dataset), split)
    written = export_games(tasks, target, grammar, dataset=dataset, template=template)
    _console().print(f"{len(written)} games in {target}", highlight=False, soft_wrap=True)


def _splits(bundle: Path) -> str:
    """The splits' sizes, and how much of the test splits is in train as published."""
    from eto_envs.webshop.data.shop import open_shop

    splits = open_shop(bundle).splits
    parts = [f"{split}: {len(indices)} goals" for split, indices in splits.items()]
    n_shared = len(splits["train"]) - len(splits["train_clean"])
    if n_shared:
        parts.append(f"{n_shared} goals of train are in a test split too (not in train_clean)")
    return "; ".join(parts)


class _Stages:
    """Shows how far a build is: on a terminal a line that counts, elsewhere a line a stage."""

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


def _console() -> Any:
    from rich.console import Console

    return Console()


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
