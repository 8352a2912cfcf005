"""`eto audit`: is an environment deterministic, and does it behave like the original?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from eto_agents.cli.evaluation import env_arguments
from eto_agents.console import show, table
from eto_agents.plain_text import one_line
from eto_envs.errors import UnknownNameError

if TYPE_CHECKING:
    from eto_envs.audit import Determinism
    from eto_envs.comparison import Comparison


def audit(
    env: Positional[str],
    n: Annotated[int, arg(aliases=["-n"])] = 5,
    dataset: str | None = None,
    transcripts: tuple[Path, ...] = (),
    against: Literal["textworld"] | None = None,
    seed: int = 0,
    env_args: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE …")] = (),
    quiet: bool = False,
) -> None:
    """Check that an environment is deterministic, and that it behaves like the original.

    Random and expert episodes are played three times, twice in this process and once in another.

    The table shows the share of observations, scores and infos that are identical.

    Recordings of the original implementation are replayed with --transcripts.

    The exit code is 1 if anything differs.

    For example:
        eto audit ETO-ALFWorld-v0 --dataset mini -n 2
        eto audit ETO-WebShop-v0 -n 0 --transcripts recorded.jsonl

    Args:
        env: Environment id, such as ETO-ScienceWorld-v0.
        n: Number of tasks of each type to play (with --against textworld, the number of games). 0
            only replays transcripts.
        dataset: Dataset of the environment: mini, an official name such as full, or a folder that
            holds the official files. By default the official data if downloaded, else mini.
        transcripts: Files of episodes recorded on the original, to be replayed.
        against: Play the same commands on the original at the same time (ALFWorld only; needs the
            extra alfworld and the unpacked folder of official games).
        seed: Seed that selects tasks and actions.
        env_args: Further arguments for the environment; values are JSON or plain text.
        quiet: Show no progress, only the results.
    """
    import eto_envs  # noqa: F401 (registers the ids)
    from eto_envs.audit import audit as run

    if env == "alfworld":  # the command's original form
        env, against = "ETO-ALFWorld-v0", "textworld"
    arguments = env_arguments(env, env_args, dataset=dataset)
    ok = True
    if against is None and n > 0:
        determinism = run(env, n, seed, env_args=arguments, progress=_progress("walks", quiet))
        show(_table(determinism))
        ok = determinism.ok or not determinism.is_claimed
    n_games = n if against is not None else 0
    for report in _comparisons(env, arguments, n_games, seed, transcripts, quiet):
        show(str(report))
        ok = ok and report.ok
    if not ok:
        sys.exit(1)


def _comparisons(
    env: str,
    arguments: dict[str, Any],
    n_games: int,
    seed: int,
    transcripts: tuple[Path, ...],
    quiet: bool,
) -> Iterator[Comparison]:
    world = env.rpartition(":")[2].rpartition("-v")[0]
    dataset = arguments.get("dataset", "auto")
    if n_games and world != "ETO-ALFWorld":
        raise UnknownNameError("original to play against for", env, ("ETO-ALFWorld-v0",))
    if n_games:
        from eto_envs.alfworld.audit import audit as alfworld

        yield alfworld(dataset, n_games, seed, progress=_progress("games", quiet))
    for path in transcripts:
        progress = _progress(path.name, quiet)
        if world == "ETO-ALFWorld":
            from eto_envs.alfworld.audit import audit as alfworld

            yield alfworld(dataset, 0, seed, transcripts=path)
        elif world == "ETO-ScienceWorld":
            from eto_envs.scienceworld.audit import compare as scienceworld

            yield scienceworld(path, java=arguments.get("java"), progress=progress)
        elif world == "ETO-WebShop":
            from eto_envs.webshop.audit import compare as webshop

            options = {k: v for k, v in arguments.items() if k in ("goals", "price_seed")}
            yield webshop(path, dataset=dataset, progress=progress, **options)
        else:
            known = ("ETO-ALFWorld-v0", "ETO-ScienceWorld-v0", "ETO-WebShop-v0")
            raise UnknownNameError("transcripts for", env, known)


def _progress(what: str, quiet: bool) -> Callable[[int, int], None] | None:
    """A callback that counts on one line of stderr; None unless stderr is a terminal."""
    if quiet or not sys.stderr.isatty():
        return None

    def show(n_done: int, n_planned: int) -> None:
        end = "\n" if n_done == n_planned else ""
        sys.stderr.write(f"\r{one_line(what)}: {n_done}/{n_planned} {end}")
        sys.stderr.flush()

    return show


def _table(found: Determinism) -> Any:
    from eto_envs.audit import PARTS

    kinds = list(found.by_kind.items())
    rows = []
    for kind, agreement in [*kinds, ("all", found.total)] if len(kinds) > 1 else kinds:
        shares = [_percent(agreement.n_same[part], agreement.n_moments) for part in PARTS]
        rows.append((kind or "-", str(agreement.n_walks), str(agreement.n_moments), *shares))
    return table(
        ("task type", "walks", "moments", *(f"{part}s" for part in PARTS)),
        rows,
        title=f"{found.env_id}, dataset {found.dataset}: the same when replayed",
        folded=("task type",),
    )


def _percent(n_same: int, n: int) -> str:
    """Format a share; only if all are the same does it round to 100 %."""
    if n_same == n:
        return "100 %"
    return f"{min(100 * n_same / n, 99.99):.2f} %"
