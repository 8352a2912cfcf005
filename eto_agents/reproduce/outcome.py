"""`Outcome`: what a run came to, in its folder's ``outcome.json``; tables are made from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from eto_agents.strict_json import write_json
from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import read_json_object

FILE: Final = "outcome.json"
Facts = dict[str, Any]


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        world: its name.
        seed: its seed.
        folder: its folder.
        rows: evaluation's name by method; a method without one has a note.
        notes: what a reader must know, by method.
        facts: what every method said, with the seconds that all calls have spent on it.
    """

    world: str
    seed: int
    folder: Path
    rows: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)

    def run(self, method: str) -> Path | None:
        """The evaluation that fills a method's row."""
        name = self.rows.get(method)
        return None if name is None else self.folder / "runs" / name

    def save(self) -> None:
        """Write ``outcome.json``."""
        record = {"world": self.world, "seed": self.seed, "rows": self.rows}
        write_json(self.folder / FILE, record | {"notes": self.notes, "facts": self.facts})

    @classmethod
    def load(cls, folder: Path) -> Outcome:
        """Read ``outcome.json``.

        Raises:
            DataNotFoundError: there is none.
            CorruptDataError: it is damaged.
        """
        if not (folder / FILE).is_file():
            raise DataNotFoundError(f"{folder} has no {FILE}: run `eto reproduce` first")
        record = read_json_object(folder / FILE)
        kinds = {"world": str, "seed": int, "rows": dict, "notes": dict, "facts": dict}
        for name, kind in kinds.items():
            if not isinstance(record.get(name), kind):
                raise CorruptDataError(f"{folder / FILE} is damaged: no usable {name!r}")
        rest = (record[name] for name in ("rows", "notes", "facts"))
        return cls(record["world"], record["seed"], folder, *rest)


def run_folder(out: Path, world: str, seed: int) -> Path:
    """Where a run is, below the reproduction's folder."""
    return out / world / f"seed-{seed}"
