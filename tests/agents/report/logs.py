"""What the tests of the replay page share: a hostile text, and a way to alter a run's log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOSTILE = (
    '<script>window.hacked=1</script></script><img src=x onerror="window.hacked=1"> {{data}} \ud83d'
)


def rewrite(folder: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    log = folder / "episodes.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for number, record in enumerate(records, start=1):
        change(number, record)
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
