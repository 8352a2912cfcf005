"""Why an episode did not succeed: kinds of failure, detected by fixed rules.

The rules are pure functions of one `Trajectory`; their order decides which of several failures is
the main one. They use nothing but the log: no model judges an episode, and what an agent should
have bought is known only as far as the instruction says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from eto_agents.trajectory import Step, Trajectory
from eto_agents.worlds import Failure, all_worlds, find_world

N_REPEATS: Final = 3
"""The same action in the same situation, repeated this often, is a loop."""

N_STALE: Final = 5
"""An agent gave up if this many steps at the end bring nothing new."""


def rules() -> dict[str, tuple[str, str]]:
    """Label and rule of each kind; an episode's main kind is its first one in this order."""
    special = {kind: rule for world in all_worlds() for kind, rule in world.failure_rules.items()}
    return {**_ERRORS, **special, **_RULES}


_ERRORS: Final = {
    "env_error": (
        "environment error",
        "The environment failed, also when retried; the agent is not to blame.",
    ),
    "agent_error": (
        "agent error",
        "The agent raised an exception, timed out or returned no usable action.",
    ),
}
_RULES: Final = {
    "task_failed": ("task failed", "The task ended without success, before the step limit."),
    "loop": (
        "loop",
        f"The agent took the same action at least {N_REPEATS} times after the same observation.",
    ),
    "format_errors": ("format error", "At least one of the agent's replies contained no action."),
    "invalid_actions": (
        "invalid actions",
        "The world rejected at least one action. This is the main kind only if it rejected at "
        "least half of all actions, or if no other rule applies.",
    ),
    "gave_up": (
        "gave up",
        f"At least the last {N_STALE} steps brought neither a higher score nor a new observation; "
        "in WebShop also if nothing had been bought when the step limit was reached.",
    ),
    "limit": ("hit the limit", "The step limit ended the episode."),
}


def failures(trajectory: Trajectory) -> list[Failure]:
    """What went wrong in an episode, the main kind first.

    An episode that succeeded has no failure, nor has one that was cancelled, which may still be
    played. Every other episode has at least one.
    """
    if trajectory.success or trajectory.status == "cancelled":
        return []
    special = find_world(trajectory.world).failures(trajectory)
    # The world's own failures explain the end of the episode, in place of the general ones.
    detectors = [d for d in _DETECTORS if not special or d not in (_task_failed, _gave_up)]
    general = [failure for detect in detectors if (failure := detect(trajectory)) is not None]
    kinds = [*rules()]
    return sorted([*special, *general], key=lambda f: _precedence(f, trajectory, kinds))


def _precedence(failure: Failure, trajectory: Trajectory, kinds: Sequence[str]) -> int:
    few = failure.kind == "invalid_actions" and 2 * len(failure.steps) < len(trajectory.steps)
    return len(kinds) if few else kinds.index(failure.kind)


def _env_error(t: Trajectory) -> Failure | None:
    return Failure("env_error", _first_line(t.error)) if t.status == "env_error" else None


def _agent_error(t: Trajectory) -> Failure | None:
    return Failure("agent_error", _first_line(t.error)) if t.status == "agent_error" else None


def _task_failed(t: Trajectory) -> Failure | None:
    if t.status != "completed":
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
    detail = f"{len(steps)} of {_count(len(t.steps), 'action')} rejected"
    return Failure("invalid_actions", detail, steps) if steps else None


def _gave_up(t: Trajectory) -> Failure | None:
    n_stale = _n_stale(t)
    if n_stale < N_STALE:
        return None
    steps = tuple(range(len(t.steps) - n_stale, len(t.steps)))
    return Failure("gave_up", f"nothing new in the last {n_stale} steps", steps)


def _limit(t: Trajectory) -> Failure | None:
    if t.status != "truncated":
        return None
    return Failure("limit", f"{_count(len(t.steps), 'step')}, score {t.score:.2f}")


_DETECTORS: Final[Sequence[Callable[[Trajectory], Failure | None]]] = (
    _env_error,
    _agent_error,
    _task_failed,
    _loop,
    _format_errors,
    _invalid_actions,
    _gave_up,
    _limit,
)


def observations(t: Trajectory) -> list[str]:
    """What the agent saw: the initial observation, then the one after each step."""
    return [t.initial_observation, *(step.observation for step in t.steps)]


def _n_stale(t: Trajectory) -> int:
    """Number of steps at the end that brought neither a higher score nor a new observation."""
    seen = {t.initial_observation}
    best = 0.0
    n_stale = 0
    for step in t.steps:
        is_new = step.score > best or step.observation not in seen
        n_stale = 0 if is_new else n_stale + 1
        best = max(best, step.score)
        seen.add(step.observation)
    return n_stale


def _has_format_error(step: Step) -> bool:
    """Whether the agent's reply had no action; the world then got the empty command."""
    return bool(step.usage.get("format_errors")) or (not step.action and bool(step.text))


def _first_line(error: str) -> str:
    return _shortened(next(iter(error.strip().splitlines()), "no message"), 160)


def _shortened(text: str, n: int = 60) -> str:
    return text if len(text) <= n else text[: n - 1] + "…"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
