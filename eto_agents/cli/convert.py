"""`eto export` and `eto import`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tyro.conf import Positional

from eto_agents.console import show
from eto_envs.errors import DataError, UnknownNameError

if TYPE_CHECKING:
    from eto_agents.formats.chats import Chat
    from eto_agents.preference import PreferencePair

FormatName = Literal[
    "eto-sft", "llama-factory-sft", "messages", "eto-preference", "llama-factory-ranking", "trl"
]
OF_TRAJECTORIES: Final = ("eto-sft", "llama-factory-sft", "messages")
PAIRS_FILE: Final = "pairs.jsonl"


def export(
    format: Positional[FormatName],
    source: Positional[Path],
    target: Positional[Path],
    prompts: str | None = None,
    with_example: bool = False,
    min_score: float | None = None,
    splits: tuple[str, ...] = (),
) -> None:
    """Export trajectories or preference pairs to another program's file format.

    For example:
        eto export llama-factory-sft runs/experts experts.json
        eto export trl runs/eto/iteration-1/pairs pairs.jsonl

    Args:
        format: Format to write. For trajectories: eto-sft, llama-factory-sft or messages (Hugging
            Face); for preference pairs: eto-preference, llama-factory-ranking or trl.
        source: Folder of a collection or a run, or an episodes file; for pairs a file of pairs or
            its folder.
        target: File to write.
        prompts: Prompts to write: own, published, brief, or a TOML file. By default those that the
            run was played with, else own.
        with_example: Include the worked example of the prompt (format messages only).
        min_score: Leave out episodes that score less; by default the collection's minimum.
        splits: Export only these splits. By default all.
    """
    if format not in OF_TRAJECTORIES:
        pairs = _read_pairs(source)
        n_written = _pair_writer(format)(target, pairs)
        left_out = f", {len(pairs) - n_written} left out" if n_written < len(pairs) else ""
        show(f"{n_written} pairs{left_out}, written to {target}")
        return
    from eto_agents.formats.chats import chats_of
    from eto_agents.react.prompts import load_prompts

    if with_example and format != "messages":
        hint = f"{format} has no place for one that is not trained on; 'messages' does."
        raise UnknownNameError("worked example in format", format, (), hint)
    trajectories = _read_trajectories(source, min_score, splits)
    loaded = load_prompts(prompts or _recorded_prompts(source))
    chats = chats_of(trajectories, loaded, with_example=with_example)
    n_written = _chat_writer(format)(target, chats)
    show(f"{n_written} episodes written to {target}")


def import_file(
    format: Positional[FormatName],
    source: Positional[Path],
    target: Positional[Path],
    world: str | None = None,
    dataset: str = "",
    split: str = "train",
    score_if_unknown: float = 1.0,
) -> None:
    """Import another program's file: trajectories into a new folder, pairs into a file of pairs.

    For example:
        eto import eto-sft webshop_sft.json runs/published-experts --dataset full

    Args:
        format: Format of the file, as for export; eto-sft reads ETO's published files.
        source: File to read.
        target: Folder to make; for pairs the file to write.
        world: World of the trajectories: webshop, alfworld-2.1.1, alfworld-2.1.2 or scienceworld.
            By default it is recognised from the file.
        dataset: Dataset that the tasks come from, if the file does not say so: full for ETO's
            published WebShop file, eto for its ScienceWorld file.
        split: Split that the tasks come from, if the file does not say so.
        score_if_unknown: Score of episodes that have none in the file (ETO counts its experts' as
            1).
    """
    if format not in OF_TRAJECTORIES:
        from eto_agents.preference import write_pairs

        pairs = _pair_reader(format)(source)
        left_out = Counter(pair.fault for pair in pairs if pair.fault)
        if left_out.total() == len(pairs):
            raise DataError(f"{source} has no pair to learn from: {_counted(left_out)}")
        n_written = write_pairs(target, [pair for pair in pairs if not pair.fault])
        more = f"; left out: {_counted(left_out)}" if left_out else ""
        show(f"{n_written} pairs written to {target}{more}")
        return
    from eto_agents.formats.folder import write_folder
    from eto_agents.formats.sft import read_eto_sft, read_messages

    if format == "messages":
        chats = read_messages(source)
    else:
        chats = read_eto_sft(source, world=world, dataset=dataset, split=split)
    write_folder(target, source, chats, world=world, score_if_unknown=score_if_unknown)
    n_unknown = sum(chat.score is None for chat in chats)
    unscored = f" ({n_unknown} without a score, taken as {score_if_unknown:g})" if n_unknown else ""
    show(f"{len(chats)} episodes{unscored} written to {target}")


def _counted(faults: Counter[str]) -> str:
    return ", ".join(f"{n} of which {fault}" for fault, n in faults.items())


def _read_trajectories(source: Path, min_score: float | None, splits: tuple[str, ...]) -> list[Any]:
    from eto_agents.collection import read_collection

    collection = read_collection(source, min_score=min_score)
    selected = [t for t in collection.selected if not splits or t.split in splits]
    if not selected:
        raise DataError(
            f"no episode of {source} is left to write: {len(collection.selected)} score at least "
            f"{collection.min_score:g}, left out: {collection.dropped or 'none'}"
        )
    return selected


def _read_pairs(source: Path) -> list[PreferencePair]:
    from eto_agents.preference import read_pairs

    path = source / PAIRS_FILE if source.is_dir() else source
    pairs = list(read_pairs(path))
    if not pairs:
        raise DataError(f"{path} has no pairs")
    return pairs


def _recorded_prompts(source: Path) -> str:
    """The name of the prompts that a run was played with; own if it was played without a model."""
    from eto_agents.react.prompts import SOURCES
    from eto_agents.runs import read_record

    record = read_record(source if source.is_dir() else source.parent)
    provenance = {} if record is None else record.settings.get("policy_provenance", {})
    name = provenance.get("prompts", "own")
    if name not in SOURCES:
        raise UnknownNameError("name for the prompts of", source, (), "Give --prompts FILE.")
    return str(name)


def _chat_writer(format: FormatName) -> Callable[[Path, Iterable[Chat]], int]:
    from eto_agents.formats import sft

    writers: Mapping[str, Callable[[Path, Iterable[Chat]], int]] = {
        "eto-sft": sft.write_eto_sft,
        "llama-factory-sft": sft.write_llama_factory_sft,
        "messages": sft.write_messages,
    }
    return writers[format]


def _pair_writer(format: FormatName) -> Callable[[Path, Iterable[PreferencePair]], int]:
    from eto_agents.formats import preference

    writers: Mapping[str, Callable[[Path, Iterable[PreferencePair]], int]] = {
        "eto-preference": preference.write_eto_preference,
        "llama-factory-ranking": preference.write_llama_factory_ranking,
        "trl": preference.write_trl,
    }
    return writers[format]


def _pair_reader(format: FormatName) -> Callable[[Path], list[PreferencePair]]:
    from eto_agents.formats import preference

    readers: Mapping[str, Callable[[Path], list[PreferencePair]]] = {
        "eto-preference": preference.read_eto_preference,
        "llama-factory-ranking": preference.read_llama_factory_ranking,
        "trl": preference.read_trl,
    }
    return readers[format]
