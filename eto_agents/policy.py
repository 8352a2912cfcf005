"""`Policy`: what an agent is, and how a name or an object becomes one.

A policy is batch first: one call serves many live episodes, each in a numbered slot. Whoever
writes an agent for one episode at a time (`reset(task, seed)`, `act(observation, info) -> str`)
need not care: `as_policy` adapts it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from eto_agents.deadline import ActionTimeoutError, Worker
from eto_agents.trajectory import Message
from eto_envs.errors import UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task

POLICIES: Mapping[str, str] = {
    "random": "eto_agents.policies.simple:RandomPolicy",
    "expert": "eto_agents.policies.simple:ExpertPolicy",
    "sloppy-expert": "eto_agents.policies.sloppy:SloppyExpertPolicy",
    "replay": "eto_agents.policies.simple:ReplayPolicy",
    "human": "eto_agents.policies.human:HumanPolicy",
    "alfworld-explorer": "eto_envs.alfworld.experts.explorer:Explorer",
    "react": "eto_agents.policies.react:ReActPolicy",
    "best-of-n": "eto_agents.best_of_n:BestOfN",
}
"""Built-in names; entry points of `ENTRY_POINT_GROUP` add to them."""

ENTRY_POINT_GROUP = "eto_agents.policies"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy does in one episode at one step.

    Attributes:
        action: the world's own command.
        text: what was written, if more than the action.
        thought: the reasoning before the action.
        token_ids: ids of `text`, if sampled locally.
        log_probs: natural-log probabilities of `token_ids`.
        usage: token counts and costs of this decision.
        latency_s: seconds it took.
        error: if not empty, the agent failed here: the episode ends as `agent_error`. The first
            line says what happened; a traceback may follow.
    """

    action: str
    text: str = ""
    thought: str = ""
    token_ids: list[int] | None = None
    log_probs: list[float] | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.0
    error: str = ""


@runtime_checkable
class Policy(Protocol):
    """A batch-first agent.

    Optional attributes: `name` (str, for results), `reveal` (names of what it needs in `info`,
    such as ``("admissible_actions",)``), `provenance` (a JSON-able dict: model, sampling, prompt
    hash) and `n_envs` (the most episodes it can serve at once).
    """

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin an episode in each of `slots`; lists have one entry for each slot."""

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Decide in each of `slots`."""


class OneEpisodePolicy:
    """Serves a batch with one agent of the simple kind for each slot."""

    def __init__(self, make_agent: Callable[[], Any], name: str) -> None:
        """Wrap agents made by `make_agent`: objects with `reset(task, seed)` and `act`."""
        self._make_agent = make_agent
        self._agents: dict[int, Any] = {}
        self._workers: dict[int, Worker] = {}
        self._failed: dict[int, str] = {}
        self._limit_s: float | None = None
        first = make_agent()  # also the copy of an instance, which so stays as it was given
        self.name = str(getattr(first, "name", name))
        self.reveal = tuple(getattr(first, "reveal", ()))
        self.provenance = dict(getattr(first, "provenance", {}))
        self._spare: Any = first

    def limit_time(self, seconds: float | None) -> None:
        """From now on an agent that takes longer for `reset` or `act` ends its own episode."""
        self._limit_s = seconds

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin episodes, each with an agent of its slot; one that raises ends its own only."""
        for slot, task, seed in zip(slots, tasks, seeds, strict=True):
            self._failed.pop(slot, None)
            try:
                if slot not in self._agents:
                    spare, self._spare = self._spare, None
                    self._agents[slot] = (
                        self._call(slot, self._make_agent) if spare is None else spare
                    )
                self._call(slot, self._agents[slot].reset, task, seed)
            except BaseException as error:  # noqa: BLE001 (a stranger's code: its failure is data)
                self._failed[slot] = failure(error)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Ask each slot's agent; one that raises or hangs ends its own episode only."""
        rows = zip(slots, observations, infos, strict=True)
        return [self._ask(slot, text, info) for slot, text, info in rows]

    def _ask(self, slot: int, observation: str, info: Info) -> Decision:
        if slot in self._failed:
            return Decision("", error=self._failed[slot])
        try:
            answer = self._call(slot, self._agents[slot].act, observation, info)
        except BaseException as error:  # noqa: BLE001 (a stranger's code: its failure is data)
            return Decision("", error=failure(error))
        if isinstance(answer, Decision):
            return answer
        if isinstance(answer, str):
            return Decision(answer)
        kind = type(answer).__name__
        return Decision("", error=f"act returned {kind}, not str: {shortened(answer)}")

    def _call(self, slot: int, function: Callable[..., Any], *arguments: Any) -> Any:
        # Agents are asked one after another, so that each has its time for itself.
        if self._limit_s is None:
            return function(*arguments)
        if slot not in self._workers:
            self._workers[slot] = Worker()
        try:
            return self._workers[slot].call(self._limit_s, function, *arguments)
        except ActionTimeoutError:
            self._agents.pop(slot, None)  # the abandoned thread has it; the next is a new one
            raise


class TimeLimitedPolicy:
    """A batch policy whose calls end in `ActionTimeoutError` when they take too long."""

    def __init__(self, policy: Policy, seconds: float) -> None:
        """Bound every call of `policy` by `seconds`, however many episodes it serves."""
        self._policy = policy
        self._seconds: float | None = seconds
        self._worker = Worker()
        self.name = str(getattr(policy, "name", type(policy).__name__))

    def limit_time(self, seconds: float | None) -> None:
        """Bound every call by another time, or by none."""
        self._seconds = seconds

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin episodes."""
        self._worker.call(self._seconds, self._policy.reset, slots, tasks, seeds)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Decide in each of `slots`."""
        answer = self._worker.call(self._seconds, self._policy.act, slots, observations, infos)
        return cast(list[Decision], answer)

    def conversation(self, slot: int) -> list[Message]:
        """The wrapped policy's."""
        return conversation_of(self._policy, slot)


def conversation_of(policy: Any, slot: int) -> list[Message]:
    """The conversation that a policy holds in a slot so far; empty if it holds none.

    Args:
        policy: may have `conversation(slot) -> list[Message]`.
        slot: of a live episode.
    """
    own = getattr(policy, "conversation", None)
    return [] if own is None else list(own(slot))


def with_time_limit(policy: Policy, seconds: float | None) -> Policy:
    """The policy with a limit on how long it may take to answer; None lifts it.

    One-episode agents are bounded one by one, a batch policy by call. A policy that has
    `limit_time(seconds)` is told instead.

    Raises:
        ValueError: `seconds` is not positive.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"an action timeout must be more than 0 seconds, got {seconds}")
    own = getattr(policy, "limit_time", None)
    if own is not None:
        own(seconds)
        return policy
    return policy if seconds is None else TimeLimitedPolicy(policy, seconds)


MAX_MESSAGE_CHARS = 500
MAX_TRACEBACK_CHARS = 20_000


def describe(error: BaseException) -> str:
    """An exception in one line, with the place it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ""
    if trace is not None:
        place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
    try:
        message = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 (a stranger's exception may not even have a text)
        message = "(its text cannot be had)"
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[:MAX_MESSAGE_CHARS] + "…"
    return f"{type(error).__name__}: {message}{place}"


def failure(error: BaseException) -> str:
    """An exception of an agent as text: one line, then the traceback.

    Raises:
        KeyboardInterrupt: it is one; that is the person at the terminal, not the agent.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    if isinstance(error, ActionTimeoutError):
        line, trace = f"{type(error).__name__}: {error}", error.place
    else:
        line = describe(error)
        trace = "".join(traceback.format_exception(error))
    if len(trace) > MAX_TRACEBACK_CHARS:
        trace = "…" + trace[-MAX_TRACEBACK_CHARS:]
    return f"{line}\n{trace}".rstrip()


def shortened(value: Any) -> str:
    """The beginning of a value's `repr`, whatever the value is."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 (a stranger's object)
        return "(its repr fails)"


def as_policy(agent: Any) -> Policy:
    """A `Policy` from a policy, a one-episode agent, a class of either, or a name.

    An object of the one-episode kind is copied (`copy.deepcopy`) for each further slot; give the
    class, or a function that makes one, where a copy will not do.

    Raises:
        UnknownNameError: a name that nothing answers to.
        TypeError: the object has no `reset` and `act` of either kind.
    """
    if isinstance(agent, str):
        return load_policy(agent)
    is_maker = inspect.isclass(agent) or inspect.isfunction(agent)
    instance: Any = agent() if is_maker else agent
    name = type(instance).__name__
    n_arguments = _n_act_arguments(instance)
    if n_arguments == 3:
        return cast(Policy, instance)
    if n_arguments == 2:
        make: Callable[[], Any] = agent if is_maker else functools.partial(copy.deepcopy, agent)
        return OneEpisodePolicy(make, name)
    raise TypeError(
        f"{name} is no policy: it needs reset(task, seed) and act(observation, info) -> str, or "
        "reset(slots, tasks, seeds) and act(slots, observations, infos) -> list[Decision]"
    )


def _n_act_arguments(instance: Any) -> int:
    """Number of positional arguments that `act` takes, or 0 if it is no agent."""
    if not callable(getattr(instance, "act", None)) or not callable(
        getattr(instance, "reset", None)
    ):
        return 0
    parameters = inspect.signature(instance.act).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def load_policy(name: str, **arguments: Any) -> Policy:
    """The policy that a name means.

    Args:
        name: a built-in name, an entry point of group ``eto_agents.policies``, or
            ``"package.module:Class"`` (modules in the working directory are found too).
        **arguments: for the class.

    Raises:
        UnknownNameError: nothing answers to the name.
        TypeError: the class does not take the arguments, or is no policy.
    """
    plugins = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    target = POLICIES.get(name) or plugins.get(name) or name
    module_name, colon, attribute = target.partition(":")
    if not colon:
        known = [*POLICIES, *plugins]
        raise UnknownNameError("policy", name, known, "Your own: 'package.module:Class'.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does, so that a script beside the user is found
    try:
        make = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise UnknownNameError(
            "module", module_name, (), f"It was asked for by {name!r}."
        ) from None
    except AttributeError:
        known = [n for n in dir(sys.modules[module_name]) if not n.startswith("_")]
        raise UnknownNameError(f"name in module {module_name}", attribute, known) from None
    return as_policy(_with_arguments(make, arguments))


def _with_arguments(make: Any, arguments: dict[str, Any]) -> Any:
    if not arguments:
        return make

    def made() -> Any:
        return make(**arguments)

    return made
