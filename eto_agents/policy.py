"""The `Policy` protocol, and making a policy from an object or a name.

A policy is batch first: one call serves many live episodes, each in a numbered slot. An agent
written for one episode at a time (`reset(task, seed)`, `act(observation, info) -> str`) works too:
`as_policy` adapts it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from eto_agents.arguments import checked_arguments
from eto_agents.threads import ActionTimeoutError, Worker
from eto_agents.trajectory import Message, Tool
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
        action: a command of the world, such as ``"go to desk 1"``.
        text: the agent's full reply, if it is more than the action.
        thought: the reasoning before the action.
        token_ids: token ids of `text`, if it was sampled locally.
        log_probs: natural-log probabilities of `token_ids`, same length.
        usage: token counts and costs of this decision.
        latency_s: seconds the decision took.
        error: if not empty, the agent failed and the episode ends as `agent_error`. The first line
            says what happened; a traceback may follow.
        is_permanent: for an error, whether it has to be expected in all other episodes as well,
            until somebody corrects the cause, such as a wrong API key.
    """

    action: str
    text: str = ""
    thought: str = ""
    token_ids: list[int] | None = None
    log_probs: list[float] | None = None
    usage: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.0
    error: str = ""
    is_permanent: bool = False


@runtime_checkable
class Policy(Protocol):
    """A batch-first agent.

    Optional attributes: `name` (str, for results), `reveal` (what it needs in `info`, a name or
    several, such as ``("admissible_actions",)``), `provenance` (a JSON-able dict: model, sampling,
    prompt hash), `tools` (what its model can call), `n_envs` (the most episodes it can serve at
    once) and `concurrent`.

    By default all live episodes wait for each other: one call of `act` decides for all of them. If
    `concurrent` is true, `reset` and `act` may be called from several threads at once, each call
    with other slots. Each episode then goes on as soon as its own decision is there; its calls have
    one slot, and all calls for a slot come from the same thread. Such a policy has to wait rather
    than compute, for a server for instance, or it gains nothing.
    """

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin an episode in each of `slots`; all arguments have one entry per slot."""

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Return one decision for each of `slots`."""


def is_concurrent(agent: Any) -> bool:
    """Whether an agent, or a model, may be called from several threads at once."""
    return bool(getattr(agent, "concurrent", False))


def reveal_of(agent: Any) -> tuple[str, ...]:
    """The names of what an agent needs in `info`: its attribute `reveal`, a name or several."""
    return as_names(getattr(agent, "reveal", ()))


def tools_of(policy: Any) -> tuple[Tool, ...]:
    """What a policy's model can call: its attribute `tools`, by default nothing."""
    return tuple(getattr(policy, "tools", ()))


def name_of(policy: Any) -> str:
    """A policy's name for results: its attribute `name`, by default that of its class."""
    return str(getattr(policy, "name", type(policy).__name__))


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Several names, or a single one that is not to be taken for a sequence of letters."""
    return (names,) if isinstance(names, str) else tuple(names)


class OneEpisodePolicy:
    """A batch policy that runs a one-episode agent in each slot.

    It is concurrent if the agent has a true attribute `concurrent`: one agent is never called from
    two threads at once, but what several agents share has to bear it.
    """

    def __init__(self, make_agent: Callable[[], Any], name: str) -> None:
        """Wrap the agents that `make_agent` returns: objects with `reset(task, seed)` and `act`."""
        self._make_agent = make_agent
        self._agents: dict[int, Any] = {}
        self._workers: dict[int, Worker] = {}
        self._failed: dict[int, str] = {}
        self._limit_s: float | None = None
        first = make_agent()  # for an instance this is a copy: the caller's own is never changed
        self.name = str(getattr(first, "name", name))
        self.reveal = reveal_of(first)
        self.provenance = dict(getattr(first, "provenance", {}))
        self.concurrent = is_concurrent(first)
        self._spares: list[Any] = [first]

    def limit_time(self, seconds: float | None) -> None:
        """Let an agent that takes longer than this for `reset` or `act` fail in its episode."""
        self._limit_s = seconds

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin episodes; an agent that raises ends its own episode only."""
        for slot, task, seed in zip(slots, tasks, seeds, strict=True):
            self._failed.pop(slot, None)
            try:
                if slot not in self._agents:
                    self._agents[slot] = self._new_agent(slot)
                self._call(slot, self._agents[slot].reset, task, seed)
            except BaseException as error:  # noqa: BLE001 (third-party code: its failure is data)
                self._failed[slot] = failure(error)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Call each slot's agent; one that raises or hangs ends its own episode only."""
        rows = zip(slots, observations, infos, strict=True)
        return [self._act_in(slot, text, info) for slot, text, info in rows]

    def _act_in(self, slot: int, observation: str, info: Info) -> Decision:
        if slot in self._failed:
            return Decision("", error=self._failed[slot])
        try:
            answer = self._call(slot, self._agents[slot].act, observation, info)
        except BaseException as error:  # noqa: BLE001 (third-party code: its failure is data)
            return Decision("", error=failure(error))
        if isinstance(answer, Decision):
            return answer
        if isinstance(answer, str):
            return Decision(answer)
        kind = type(answer).__name__
        return Decision("", error=f"act returned {kind}, not str: {shortened(answer)}")

    def _new_agent(self, slot: int) -> Any:
        try:
            return self._spares.pop()  # two threads cannot get the same one
        except IndexError:
            return self._call(slot, self._make_agent)

    def _call(self, slot: int, function: Callable[..., Any], *arguments: Any) -> Any:
        # Each agent has a worker, so that none uses up another's time.
        if self._limit_s is None:
            return function(*arguments)
        if slot not in self._workers:
            self._workers[slot] = Worker()
        try:
            return self._workers[slot].call(self._limit_s, function, *arguments)
        except ActionTimeoutError:
            self._agents.pop(slot, None)  # the abandoned thread may still use it
            raise


class TimeLimitedPolicy:
    """A batch policy whose calls raise `ActionTimeoutError` when they take too long.

    It is concurrent if the policy is: each thread that calls has a thread of its own for its calls.
    """

    def __init__(self, policy: Policy, seconds: float) -> None:
        """Limit every call of `policy` to `seconds`, however many episodes it serves."""
        self._policy = policy
        self._seconds: float | None = seconds
        self._of_thread = threading.local()
        self.name = name_of(policy)
        self.concurrent = is_concurrent(policy)
        self.tools = tools_of(policy)

    def limit_time(self, seconds: float | None) -> None:
        """Change the limit of every call; None removes it."""
        self._seconds = seconds

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin an episode in each of `slots`."""
        self._call(self._policy.reset, slots, tasks, seeds)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Return one decision for each of `slots`."""
        return cast(list[Decision], self._call(self._policy.act, slots, observations, infos))

    def conversation(self, slot: int) -> list[Message]:
        """The wrapped policy's conversation in a slot."""
        return conversation_of(self._policy, slot)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not hasattr(self._of_thread, "worker"):
            self._of_thread.worker = Worker()
        return self._of_thread.worker.call(self._seconds, function, *arguments)


def conversation_of(policy: Any, slot: int) -> list[Message]:
    """The conversation in a slot so far; empty if the policy holds no conversations.

    Args:
        policy: may have a method `conversation(slot) -> list[Message]`.
        slot: the slot of a live episode.
    """
    own = getattr(policy, "conversation", None)
    return [] if own is None else list(own(slot))


def with_time_limit(policy: Policy, seconds: float | None) -> Policy:
    """Limit the time that a policy may take to decide.

    The limit holds for each one-episode agent, and for each call of a batch policy. A policy that
    has a method `limit_time(seconds)` enforces the limit itself.

    Args:
        policy: the policy.
        seconds: the limit; None removes it.

    Raises:
        ValueError: `seconds` is not positive.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"the action timeout must be more than 0 seconds, got {seconds}")
    own = getattr(policy, "limit_time", None)
    if own is not None:
        own(seconds)
        return policy
    return policy if seconds is None else TimeLimitedPolicy(policy, seconds)


MAX_MESSAGE_CHARS = 500
MAX_TRACEBACK_CHARS = 20_000


def describe(error: BaseException) -> str:
    """Describe an exception in one line, with the file and line that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = ""
    if trace is not None:
        place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
    try:
        message = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 (a third-party exception may fail even here)
        message = "(its message cannot be read)"
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[:MAX_MESSAGE_CHARS] + "…"
    return f"{type(error).__name__}: {message}{place}"


def failure(error: BaseException) -> str:
    """Describe an agent's exception: one line, then the traceback.

    Raises:
        KeyboardInterrupt: `error` is one; it comes from the terminal, not from the agent.
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
    """The first 80 characters of a value's `repr`."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 (the repr of a third-party object may raise)
        return "(its repr fails)"


def as_policy(agent: Any) -> Policy:
    """Make a `Policy` from a policy, a one-episode agent, a class of either, or a name.

    A one-episode agent is copied (`copy.deepcopy`) for each slot; pass its class, or a function
    that makes one, if it cannot be copied.

    Raises:
        UnknownNameError: there is no policy of that name.
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
        f"{name} is not a policy: it needs reset(task, seed) and act(observation, info) -> str, or "
        "reset(slots, tasks, seeds) and act(slots, observations, infos) -> list[Decision]"
    )


def _n_act_arguments(instance: Any) -> int:
    """Number of positional arguments that `act` takes; 0 if it is not an agent."""
    if not callable(getattr(instance, "act", None)) or not callable(
        getattr(instance, "reset", None)
    ):
        return 0
    parameters = inspect.signature(instance.act).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def load_policy(name: str, **arguments: Any) -> Policy:
    """Load a policy by name.

    Args:
        name: a built-in name, an entry point of group ``eto_agents.policies``, or
            ``"package.module:Class"`` (modules in the working directory are found too).
        **arguments: keyword arguments for the class.

    Raises:
        UnknownNameError: there is no policy of that name.
        UnknownArgumentError: the class does not take an argument; a `TypeError`, too.
        SettingsError: an argument has the wrong type or is out of range.
        TypeError: the class is not a policy.
    """
    plugins = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    target = POLICIES.get(name) or plugins.get(name) or name
    module_name, colon, attribute = target.partition(":")
    if not colon:
        known = [*POLICIES, *plugins]
        hint = "Name a policy of your own as 'package.module:Class'."
        raise UnknownNameError("policy", name, known, hint)
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the working directory are found
    try:
        make = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise UnknownNameError("module", module_name, (), f"The policy is {name!r}.") from None
    except AttributeError:
        known = [n for n in dir(sys.modules[module_name]) if not n.startswith("_")]
        raise UnknownNameError(f"name in module {module_name}", attribute, known) from None
    if arguments:
        arguments = checked_arguments(make, arguments, f"policy {name!r}")
    return as_policy(_with_arguments(make, arguments))


def _with_arguments(make: Any, arguments: dict[str, Any]) -> Any:
    if not arguments:
        return make

    def made() -> Any:
        return make(**arguments)

    return made
