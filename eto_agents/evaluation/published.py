"""Published results, with their sources and protocols.

They are in `baselines/published.toml`; a wheel has a copy of that file beside this module. Only
averages that a source does not give are computed from them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from eto_agents.worlds import all_worlds
from eto_envs.errors import CorruptDataError, DataNotFoundError
from eto_envs.files import parse_toml

COLUMNS = {
    name: (world.env_id, split) for world in all_worlds() for name, split in world.columns.items()
}
"""Environment id and split by the file's column name."""

FILE = "published.toml"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """The published results of one method.

    Attributes:
        method: the method, such as ``"ETO"``.
        model: the base model.
        values: number x 100 by column name of `COLUMNS`.
        metric: ``"reward"`` (average final reward) or ``"success"`` (success rate).
        protocol: key of the protocol under which it was measured.
        source: key of the source.
        table: where it is in the source; empty if that is not recorded.
        is_quoted: whether it was taken from a secondary source, and is shown "as quoted".
        spread: the uncertainty that the source gives (±), x 100, by column name.
        note: what else a reader has to know.
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
        """Mean of the five columns; NaN if the source does not have all of them."""
        if set(self.values) != set(COLUMNS):
            return float("nan")
        return math.fsum(self.values.values()) / len(COLUMNS)


@dataclass(frozen=True, slots=True)
class Published:
    """The content of the file.

    Attributes:
        rows: the rows, in the file's order.
        sources: title by source key.
        protocols: description by protocol key; ``"eto"`` is the one that this package follows.
    """

    rows: tuple[PublishedRow, ...]
    sources: Mapping[str, str]
    protocols: Mapping[str, str]


@functools.cache
def load_published() -> Published:
    """The published results that come with this package.

    Raises:
        DataNotFoundError: the file is missing.
        CorruptDataError: the file is damaged.
    """
    packaged = files("eto_agents.evaluation") / FILE
    in_checkout = Path(__file__).resolve().parents[2] / "baselines" / FILE
    for place in (packaged, in_checkout):
        if place.is_file():
            return parse_published(place.read_text(encoding="utf-8"), str(place))
    raise DataNotFoundError(
        f"{FILE} is neither in the package nor at {in_checkout}: reinstall eto-gym"
    )


def parse_published(text: str, name: str) -> Published:
    """Parse the content of the file; `name` is for error messages.

    Raises:
        CorruptDataError: the text is damaged.
    """
    record = parse_toml(text, name)
    try:
        sources = {key: str(value) for key, value in record["sources"].items()}
        protocols = {key: str(value) for key, value in record["protocols"].items()}
        rows = tuple(_row(row) for row in record["row"])
        for row in rows:
            if row.source not in sources or row.protocol not in protocols:
                raise ValueError(f"{row.method}: unknown source or protocol")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptDataError(f"{name} is not a file of published results ({error!r})") from error
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
