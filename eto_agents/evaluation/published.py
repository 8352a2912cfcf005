"""Published numbers, and how far they stand beside ours.

They are in `baselines/published.toml`, with source and protocol; a wheel carries a copy of that
file beside this module. Nothing is computed from them but averages that a source leaves out.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from eto_agents.worlds import all_worlds
from eto_envs.errors import CorruptDataError, DataNotFoundError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COLUMNS = {
    name: (world.env_id, split) for world in all_worlds() for name, split in world.columns.items()
}
"""The file's column names and the columns of our tables."""

FILE = "published.toml"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One method's published numbers.

    Attributes:
        method: what was done, such as ``"ETO"``.
        model: the base model.
        values: number x 100 by column name of `COLUMNS`.
        metric: ``"reward"`` (average final reward) or ``"success"`` (share of successes).
        protocol: key of the protocol it was measured under.
        source: key of the source.
        table: where in the source; empty where that was not recorded.
        is_quoted: read in a secondary copy of the source: shown "as quoted".
        spread: the source's own plus-minus, x 100, by column name.
        note: what else a reader must know.
    """

    method: str
    model: str
    values: Mapping[str, float]
    metric: str
    protocol: str
    source: str
    table: str
    is_quoted: bool
    spread: Mapping[str, float]
    note: str

    @property
    def average(self) -> float:
        """Mean of the five columns; NaN if the source lacks one."""
        if set(self.values) != set(COLUMNS):
            return float("nan")
        return math.fsum(self.values.values()) / len(COLUMNS)


@dataclass(frozen=True, slots=True)
class Published:
    """The file's content.

    Attributes:
        rows: in the file's order.
        sources: title by source key.
        protocols: description by protocol key; ``"eto"`` is ours.
    """

    rows: tuple[PublishedRow, ...]
    sources: Mapping[str, str]
    protocols: Mapping[str, str]


@functools.cache
def load_published() -> Published:
    """The published numbers that come with this package.

    Raises:
        DataNotFoundError: the file is not there.
        CorruptDataError: it is not what it should be.
    """
    packaged = files("eto_agents.evaluation") / FILE
    in_checkout = Path(__file__).resolve().parents[2] / "baselines" / FILE
    for place in (packaged, in_checkout):
        if place.is_file():
            return parse_published(place.read_text(encoding="utf-8"), str(place))
    raise DataNotFoundError(f"{FILE} is neither in the package nor at {in_checkout}: reinstall")


def parse_published(text: str, name: str) -> Published:
    """Read the file's text; `name` is for messages.

    Raises:
        CorruptDataError: it is not what it should be.
    """
    try:
        record = tomllib.loads(text)
        sources = {key: str(value) for key, value in record["sources"].items()}
        protocols = {key: str(value) for key, value in record["protocols"].items()}
        rows = tuple(_row(row) for row in record["row"])
        for row in rows:
            if row.source not in sources or row.protocol not in protocols:
                raise ValueError(f"{row.method}: unknown source or protocol")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"{name} is not a table of published numbers ({error!r})") from error
    return Published(rows, sources, protocols)


def _row(record: Mapping[str, Any]) -> PublishedRow:
    values = {column: float(record[column]) for column in COLUMNS if column in record}
    spread = {column: float(value) for column, value in record.get("spread", {}).items()}
    metric = record.get("metric", "reward")
    if not values or metric not in ("reward", "success") or not set(spread) <= set(values):
        raise ValueError(f"{record['method']}: no value, or an unknown metric or column")
    known = {*COLUMNS, "method", "model", "metric", "protocol", "source", "table"}
    unknown = set(record) - known - {"quoted", "spread", "note"}
    if unknown or not all(0.0 <= value <= 100.0 for value in values.values()):
        raise ValueError(f"{record['method']}: {sorted(unknown) or 'a value outside [0, 100]'}")
    return PublishedRow(
        method=str(record["method"]),
        model=str(record["model"]),
        values=values,
        metric=metric,
        protocol=str(record["protocol"]),
        source=str(record["source"]),
        table=str(record.get("table", "")),
        is_quoted=bool(record.get("quoted", False)),
        spread=spread,
        note=str(record.get("note", "")),
    )
