"""Compares WebShop with recorded episodes of the original.

The shop must be the one of the recordings: the same products, nouns, price seed and kind of goals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from eto_envs.comparison import Comparison, Difference, not_a_recording, read_recordings
from eto_envs.webshop.data.datasets import find_bundle
from eto_envs.webshop.data.shop import Shop, open_shop
from eto_envs.webshop.engine.engine import ReferenceCrash, WebShopEngine


def compare(
    transcripts: Path,
    *,
    dataset: str = "auto",
    goals: Literal["human", "synthetic"] = "human",
    price_seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Replay recorded episodes.

    Args:
        transcripts: a JSON-lines file, optionally gzipped: ``{"goal_index", "show_attrs",
            "goal": {"asin"}, "init": page, "steps": [page, …]}``, where a page is ``{"action",
            "observation", "available_actions", "reward", "done", "url"}``, or ``{"action",
            "error"}`` if the original crashed.
        dataset: as for `WebShopEnv`.
        goals: the kind of goals of the episodes.
        price_seed: the seed with which the original drew its prices.
        progress: called with the number of episodes replayed and their total number.

    Raises:
        DataNotFoundError: there is no such file or dataset.
        CorruptDataError: a line of it is not a recorded episode.
    """
    shop = open_shop(find_bundle(dataset), goals=goals, price_seed=price_seed)
    report = Comparison("WebShop", f"{shop.dataset}, {transcripts.name}")
    recordings = list(read_recordings(transcripts))
    for n_done, (number, episode) in enumerate(recordings, start=1):
        try:
            goal = shop.goals[episode["goal_index"]] if _has(shop, episode) else None
            if goal is None or goal.asin != episode["goal"]["asin"]:
                report.n_skipped += 1
                continue
            for difference in _differences(shop, episode):
                report.add(difference)
            report.n_episodes += 1
            report.n_steps += len(episode["steps"])
        except (ValueError, LookupError, TypeError) as error:
            raise not_a_recording(transcripts, number, error) from None
        if progress is not None:
            progress(n_done, len(recordings))
    return report


def _has(shop: Shop, episode: Any) -> bool:
    return 0 <= int(episode["goal_index"]) < len(shop.goals)


def _differences(shop: Shop, episode: Any) -> Iterator[Difference]:
    engine = WebShopEngine(shop, show_attrs=bool(episode.get("show_attrs")), strict_reference=True)
    session = engine.start(episode["goal_index"])
    task_id = str(episode["goal_index"])
    for n_steps, page in enumerate((episode["init"], *episode["steps"])):
        shown: dict[str, Any] = {}
        if n_steps:
            try:
                outcome = engine.step(session, page["action"])
            except ReferenceCrash as crash:
                if crash.error_type != page.get("error"):
                    theirs = page.get("error")
                    command = page["action"]
                    yield Difference(task_id, n_steps, command, "error", crash.error_type, theirs)
                return
            session = outcome.session
            shown = {"reward": outcome.reward, "done": outcome.done, "url": engine.url(session)}
        shown["available_actions"] = {
            "has_search_bar": engine.has_search_bar(session),
            "clickables": engine.clickables(session),
        }
        if isinstance(page.get("observation"), str):
            shown["observation"] = engine.text(session)
        for what, ours in shown.items():
            if ours != page.get(what):
                command = page.get("action", "")
                yield Difference(task_id, n_steps, command, what, ours, page.get(what))
