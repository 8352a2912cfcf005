"""Why an episode did not succeed: kinds of failure, found by stated rules.

Here are the rules, as pure functions of one `Trajectory`, and the order in which one of several is
the main one. They read what the log holds and nothing else: no model judges, and what an agent was
wanted to buy is known only as far as the instruction's text says it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from eto_agents.best_of_n import PURCHASE
from eto_agents.trajectory import Step, Trajectory

Kind = Literal[
    "env_error",
    "agent_error",
    "wrong_purchase",
    "task_failed",
    "loop",
    "format_errors",
    "invalid_actions",
    "gave_up",
    "limit",
]
"""The kinds, in order of precedence: the first of an episode's is the main one."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

N_REPEATS: Final = 3
"""So often the same action in the same situation makes a loop."""

N_STALE: Final = 5
"""So many last steps without anything new mean that the agent gave up."""

RULES: Final[dict[Kind, tuple[str, str]]] = {
    "env_error": (
        "environment error",
        "The world failed, retries included; not the agent's doing.",
    ),
    "agent_error": ("agent error", "The agent raised, took too long or gave no usable action."),
    "wrong_purchase": ("wrong purchase", "WebShop: something was bought, for a score below 1."),
    "task_failed": ("task failed", "The world ended the task without success, before the limit."),
    "loop": (
        "loop",
        f"The same action was given at least {N_REPEATS} times after the same observation.",
    ),
    "format_errors": ("format error", "The agent wrote at least one text without an action in it."),
    "invalid_actions": (
        "invalid actions",
        "The world did not accept at least one action. It is the main kind only where half of all "
        "actions were not accepted, or where no other rule holds.",
    ),
    "gave_up": (
        "gave up",
        f"The last {N_STALE} steps or more brought no higher score and no observation that had "
        "not been seen before; in WebShop also: the limit came and nothing was bought.",
    ),
    "limit": ("hit the limit", "The step limit ended the episode before the task did."),
}
"""Label and rule of each kind."""

_OPTION_NAMES = """
    bulb type, capacity, color, fit type, flavor, flavor name, ink color, item package quantity,
    item shape, lid, material type, model, number of items, pattern name, point size, power,
    resistance, ruling, scent, scent name, size, skin type, special size type, style, theme,
    unit count, wattage
"""
OPTION_NAMES: Final = frozenset(name.strip() for name in _OPTION_NAMES.split(","))
"""Names of WebShop's options: its text pages do not tell an option's name from its values."""

_THANKS = "Thank you for shopping with us!"
_PRICE_CAP = re.compile(r"price (?:lower|less) than \$?(\d+(?:\.\d+)?)")
_PRICE = re.compile(r"Price: \$(\d+(?:\.\d+)?)$")  # a range says nothing about what was paid
_HEADING_END = "< Prev"


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which an episode failed.

    Attributes:
        kind: which.
        detail: what was found, in a few words.
        steps: positions of the steps that show it, from 0.
    """

    kind: Kind
    detail: str
    steps: tuple[int, ...] = ()


def failures(trajectory: Trajectory) -> list[Failure]:
    """What went wrong, the main kind first.

    Empty for an episode that succeeded, and for one that was cancelled: it may yet be played.
    Every other episode has at least one.
    """
    if trajectory.success or trajectory.status == "cancelled":
        return []
    found = [failure for rule in _FINDERS if (failure := rule(trajectory)) is not None]
    return sorted(found, key=lambda failure: _precedence(failure, trajectory))


def _precedence(failure: Failure, trajectory: Trajectory) -> int:
    few = failure.kind == "invalid_actions" and 2 * len(failure.steps) < len(trajectory.steps)
    return len(KINDS) if few else KINDS.index(failure.kind)


def _env_error(t: Trajectory) -> Failure | None:
    return Failure("env_error", _first_line(t.error)) if t.status == "env_error" else None


def _agent_error(t: Trajectory) -> Failure | None:
    return Failure("agent_error", _first_line(t.error)) if t.status == "agent_error" else None


def _wrong_purchase(t: Trajectory) -> Failure | None:
    if not _bought(t):
        return None
    detail = "; ".join([f"score {t.score:.2f}", *_missed(t)])
    return Failure("wrong_purchase", detail, (len(t.steps) - 1,))


def _task_failed(t: Trajectory) -> Failure | None:
    if t.status != "completed" or _bought(t):
        return None
    last = (len(t.steps) - 1,) if t.steps else ()
    return Failure("task_failed", f"ended with score {t.score:.2f}", last)


def _loop(t: Trajectory) -> Failure | None:
    where: dict[tuple[str, str], list[int]] = {}
    for number, (before, step) in enumerate(zip(observations(t), t.steps, strict=False)):
        if not _has_format_error(step):
            where.setdefault((before, step.action.strip().lower()), []).append(number)
    longest = max(where.values(), key=len, default=[])
    if len(longest) < N_REPEATS:
        return None
    action = t.steps[longest[0]].action.strip()
    return Failure("loop", f"{len(longest)} × {_shortened(action)!r}", tuple(longest))


def _format_errors(t: Trajectory) -> Failure | None:
    steps = tuple(i for i, step in enumerate(t.steps) if _has_format_error(step))
    n_cut = sum(bool(t.steps[i].usage.get("cut_off")) for i in steps)
    detail = f"{len(steps)} of {_count(len(t.steps), 'step')}"
    detail += f", {n_cut} cut off at the token limit" if n_cut else ""
    return Failure("format_errors", detail, steps) if steps else None


def _invalid_actions(t: Trajectory) -> Failure | None:
    steps = tuple(
        i for i, step in enumerate(t.steps) if not step.is_valid and not _has_format_error(step)
    )
    detail = f"{len(steps)} of {_count(len(t.steps), 'action')} not accepted"
    return Failure("invalid_actions", detail, steps) if steps else None


def _gave_up(t: Trajectory) -> Failure | None:
    if t.status == "truncated" and _is_webshop(t) and not _bought(t):
        return Failure("gave_up", "nothing was bought", (len(t.steps) - 1,) if t.steps else ())
    n_stale = _n_stale(t)
    if n_stale < N_STALE or _bought(t):
        return None
    steps = tuple(range(len(t.steps) - n_stale, len(t.steps)))
    return Failure("gave_up", f"nothing new in the last {n_stale} steps", steps)


def _limit(t: Trajectory) -> Failure | None:
    if t.status != "truncated":
        return None
    return Failure("limit", f"{_count(len(t.steps), 'step')}, score {t.score:.2f}")


_FINDERS: Final[Sequence[Callable[[Trajectory], Failure | None]]] = (
    _env_error,
    _agent_error,
    _wrong_purchase,
    _task_failed,
    _loop,
    _format_errors,
    _invalid_actions,
    _gave_up,
    _limit,
)


def observations(t: Trajectory) -> list[str]:
    """What the agent saw: the initial observation and those after each step."""
    return [t.initial_observation, *(step.observation for step in t.steps)]


def _n_stale(t: Trajectory) -> int:
    """Number of last steps that brought neither a higher score nor a new observation."""
    seen = {t.initial_observation}
    best = 0.0
    n_stale = 0
    for step in t.steps:
        is_new = step.score > best or step.observation not in seen
        n_stale = 0 if is_new else n_stale + 1
        best = max(best, step.score)
        seen.add(step.observation)
    return n_stale


def _missed(t: Trajectory) -> list[str]:
    """Which terms of a purchase's reward are below 1, as far as the log tells."""
    last = t.steps[-1]
    terms = [f"{k} {v:.2f}" for k, v in last.reward_terms.items() if k.startswith("r_") and v < 1]
    if terms:
        return terms
    if t.score == 0:
        return ["another kind of product, or nothing of what was asked for"]
    page = observations(t)[-2].split(" [SEP] ")
    missed = _price_above_cap(t.goal, page) + _options_not_chosen(t.goal, page, last.observation)
    return missed or ["attributes or options missed, the log does not say which"]


def _price_above_cap(goal: str, page: list[str]) -> list[str]:
    cap = _PRICE_CAP.search(goal)
    price = next((found for part in page if (found := _PRICE.match(part))), None)
    if cap is None or price is None or float(price[1]) <= float(cap[1]):
        return []
    return [f"price ${price[1]} above ${cap[1]}"]


def _options_not_chosen(goal: str, page: list[str], receipt: str) -> list[str]:
    """Option values that the instruction names, the page offered and the agent did not choose."""
    bought = PURCHASE.search(receipt)
    prices = [i for i, part in enumerate(page) if part.startswith("Price: ")]
    if bought is None or not prices or _HEADING_END not in page:
        return []
    try:
        chosen = {str(value).lower() for value in json.loads(bought[2]).values()}
    except (ValueError, AttributeError):
        return []
    offered = page[page.index(_HEADING_END) + 2 : prices[-1] - 1]  # the first is an option's name
    values = {text.strip().lower() for text in offered} - OPTION_NAMES
    named = {v for v in values if re.search(rf"(?<!\w){re.escape(v)}(?!\w)", goal.lower())}
    # "beige" is not asked for where "sand beige" is.
    whole = sorted(v for v in named if not any(v != other and v in other for other in named))
    missing = [value for value in whole if value and value not in chosen]
    return [f"asked for and not chosen: {', '.join(missing)}"] if missing else []


def _is_webshop(t: Trajectory) -> bool:
    return t.world == "webshop"


def _bought(t: Trajectory) -> bool:
    return _is_webshop(t) and bool(t.steps) and _THANKS in t.steps[-1].observation


def _has_format_error(step: Step) -> bool:
    """Whether what the agent wrote had no action: then the world got the empty command."""
    return bool(step.usage.get("format_errors")) or (not step.action and bool(step.text))


def _first_line(error: str) -> str:
    return _shortened(next(iter(error.strip().splitlines()), "no message"), 160)


def _shortened(text: str, n: int = 60) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
