"""What a reproduction made, as hashes of content: the same after a change that may not change it.

    python -m tests.frozen record FOLDER… > before.json     # folders of `eto reproduce`, `eto eval`
    python -m tests.frozen compare before.json FOLDER…      # lists what differs; exit code 1

Hashed are every episode (task, seed, actions, observations, rewards, score and status, whatever the
file's form), every trained model (names, shapes and bytes of its tensors) and every table's cells,
each under its folder's own name, so that files may be renamed or get further fields.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

STEP = ("action", "observation", "reward", "task_reward", "score", "is_valid")
EPISODE = ("env_id", "split", "task_id", "seed", "sample", "initial_observation", "score", "status")


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of texts and bytes, one after the other, each with its length."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(f"{len(content)} ".encode() + content)
    return total.hexdigest()


def episodes(file: Path) -> str:
    """Hash of a log's episodes, in whatever order they ended."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        steps = [{name: step[name] for name in STEP} for step in record["steps"]]
        lines.append(json.dumps([{name: record[name] for name in EPISODE}, steps]))
    return digest(sorted(lines))


def weights(file: Path) -> str:
    """Hash of a model's tensors; the file's metadata do not count."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    parts: list[str | bytes] = []
    for name, about in sorted(header.items()):
        start, end = about["data_offsets"]
        parts += [
            name,
            about["dtype"],
            str(about["shape"]),
            content[8 + size + start : 8 + size + end],
        ]
    return digest(parts)


def table(file: Path) -> str:
    """Hash of a table's numbers."""
    cells = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return digest(cells)


KINDS = {"episodes.jsonl": episodes, "model.safetensors": weights, "table.md": table}


def hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Path below the folder, and the hash of what is there."""
    for file in sorted(folder.rglob("*")):
        if file.name in KINDS and "work" not in file.relative_to(folder).parts:
            yield file.relative_to(folder).as_posix(), KINDS[file.name](file)


def record(folders: Iterable[Path]) -> dict[str, str]:
    """The hashes of several folders."""
    return dict(pair for folder in folders for pair in hashes(folder))


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What is missing, new or other, a line each."""
    words = {
        name: "is missing" if name not in after else "is new" if name not in before else "differs"
        for name in {*before, *after}
        if before.get(name) != after.get(name)
    }
    return [f"{name} {word}" for name, word in sorted(words.items())]


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record").add_argument("folders", nargs="+", type=Path)
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("folders", nargs="+", type=Path)
    args = parser.parse_args()
    found = record(args.folders)
    if args.command == "record":
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return 0
    lines = differences(json.loads(args.before.read_text()), found)
    sys.stdout.write("".join(line + "\n" for line in lines) or f"{len(found)} contents are equal\n")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
