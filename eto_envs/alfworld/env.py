"""`ALFWorldEnv`: ALFWorld behind the contract of `eto_envs.core`.

The rules are in `engine`, the datasets in `data`. This module adds tasks, splits, limits and info,
and shortens the texts as ETO does for its agents (`eval_agent/envs/alfworld_env.py` of
Yifan-Song793/ETO at commit a2fc5da).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from eto_envs.alfworld.data.datasets import open_dataset, task_sets
from eto_envs.alfworld.engine.admissible import admissible_commands
from eto_envs.alfworld.engine.game import Game, State
from eto_envs.alfworld.engine.progress import subgoals
from eto_envs.alfworld.engine.rules import NOTHING_HAPPENS, step
from eto_envs.alfworld.engine.wording import introduction
from eto_envs.alfworld.experts.planner import shortest_plan
from eto_envs.alfworld.stock import StockState, open_stock
from eto_envs.core import Advance, TextEnv
from eto_envs.errors import SnapshotError, UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task, TaskSets
from eto_envs.vector import TextVectorEnv

ENGINES: Final = ("native", "textworld")


class ALFWorldEnv(TextEnv):
    """ALFWorld: household tasks in rooms described by text.

    ## Description
    The text games of ALFWorld (Shridhar et al., "ALFWorld: Aligning Text and Embodied Environments
    for Interactive Learning", 2021), based on the scenes and tasks of ALFRED. The agent walks
    between receptacles, opens them, and takes, cleans, heats, cools and puts down objects. There
    are six types of tasks: put an object somewhere; put two there; clean, heat or cool it first;
    look at it under a lamp. Games, texts and rules are identical to the original's, but do not
    require TextWorld: a reset takes less than a tenth of a millisecond.

    ## Action Space
    `TextSpace`. ``go to R``, ``open R``, ``close R``, ``take O from R``, ``put O in/on R`` (data
    release 2.1.1) or ``move O to R`` (2.1.2), ``clean O with R``, ``heat O with R``, ``cool O with
    R``, ``use O``, ``slice O with O``, ``examine R`` or ``O``, ``inventory``, ``look``, and in
    2.1.2 ``help``; names include numbers, as in ``desk 1``. White space around a command is
    ignored. Anything else changes nothing but counts as a step.

    ## Observation Space
    `TextSpace`: the response to the command, ``Nothing happens.`` if it was not admissible. As in
    ETO, ``You arrive at loc 3.`` is removed from the response to ``go to``.

    ## Starting State
    The middle of the room. The first observation lists the receptacles in it and states the task.

    ## Reward
    1 when the task is done, else 0.

    ## Episode End
    Terminates when the task is done; truncates after 40 steps (ETO's limit) or after `max_steps`.

    ## Info
    The common keys, and ``"grammar"``: the release whose wording is used, ``"2.1.1"`` or
    ``"2.1.2"``. `reveal` can add ``"admissible_actions"`` (the original's sorted list),
    ``"expert_action"`` (the next command of a shortest solution, empty at the end),
    ``"expert_plan"`` (the rest of that solution), ``"hidden_state"`` (the facts that commands can
    change, as sorted strings) and ``"subgoals"`` (which of the task's sub-goals hold, by name:
    found, taken, treated, placed).

    ## Arguments
    - `split`: ``"train"`` (3,553 games), ``"seen"`` (140), ``"unseen"`` (134), ``"valid_train"``
      (200), ``"train_clean"`` (the same as train) or ``"all"``; of the mini dataset train (600),
      seen (100), unseen (100) or all.
    - `dataset`: ``"auto"``, ``"2.1.1"``, ``"2.1.2"``, a folder with the official files, a pack
      built from one, or ``"mini"``: generated games in the wording of 2.1.1 (``"mini-2.1.2"`` for
      the wording of 2.1.2).
    - `kinds`: restricts the tasks to these types: ``"pick_and_place_simple"``,
      ``"look_at_obj_in_light"``, ``"pick_clean_then_place_in_recep"``,
      ``"pick_heat_then_place_in_recep"``, ``"pick_cool_then_place_in_recep"``,
      ``"pick_two_obj_and_place"``. The restricted task set has its own hash.
    - `engine`: ``"native"``, or ``"textworld"`` for the original, as a reference. This requires the
      extra ``alfworld`` and a folder of official files, and takes 40 ms per step. Its snapshots
      consist of the commands, which `restore` replays; ``"expert_action"``, ``"expert_plan"``,
      ``"hidden_state"`` and ``"subgoals"`` come from the native engine, which runs alongside.
    - `max_steps`, `reveal`, `shaping`, `render_mode`: as in every environment here.

    ## References
    alfworld/alfworld 0.4.2 with TextWorld 1.7.0; Yifan-Song793/ETO at commit a2fc5da. Departures
    are listed in docs/reproduction.md.

    ## Version History
    - v0: first version.
    """

    world = "alfworld"
    revealable = (*TextEnv.revealable, "expert_plan", "subgoals")

    def __init__(
        self,
        split: str = "train",
        *,
        dataset: str = "auto",
        kinds: Collection[str] = (),
        engine: str = "native",
        max_steps: int | None = None,
        reveal: Collection[str] = (),
        shaping: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        """Open the dataset (once per process) and select the task set; see the class.

        Raises:
            UnknownNameError: an unknown split, dataset, task type or engine; the message lists the
                valid ones.
            DataNotFoundError: the dataset is not on this machine.
            CorruptDataError: its files are damaged.
            MissingExtraError: `engine` is ``"textworld"``, and TextWorld is not installed.
        """
        if engine not in ENGINES:
            raise UnknownNameError("engine", engine, ENGINES)
        self._stock = open_stock(dataset) if engine == "textworld" else None
        self._dataset = open_dataset(dataset)
        super().__init__(
            task_sets(self._dataset, tuple(kinds)),
            split,
            max_steps=max_steps,
            reveal=reveal,
            shaping=shaping,
            render_mode=render_mode,
        )
        self._game: Game | None = None
        self._game_task: Task | None = None
        self._state: State | None = None

    @classmethod
    def find_task_sets(
        cls, *, dataset: str = "auto", kinds: Collection[str] = (), **env_args: Any
    ) -> TaskSets:
        """The task sets of a dataset; see `TextEnv.find_task_sets`."""
        return task_sets(open_dataset(dataset), tuple(kinds))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin an episode; see `TextEnv.reset`."""
        observation, info = super().reset(seed=seed, options=options)
        # The later infos of an episode are derived from the first, so they have this key, too.
        self._info["grammar"] = info["grammar"] = self._dataset.grammar
        return observation, info

    def _open(self, task: Task) -> Game:
        """The game of a task; the last one is cached, which makes frequent restoring cheap."""
        if self._game is None or task != self._game_task:
            if task.data.get("sha256") != self._dataset.pack.digest(task.id):
                raise SnapshotError(
                    f"task {task.id!r} is a different game in {self._dataset.pack.path}"
                )
            self._game = Game(self._dataset.pack.problem(task.id), self._dataset.grammar)
            self._game_task = task
        return self._game

    def _start(self, task: Task) -> str:
        game = self._open(task)
        self._state = game.start
        text = introduction(game) if self._stock is None else self._stock.start(task.id)
        _welcome, room_and_task = text.split("\n\n", 1)
        return room_and_task.replace("\n\n", "\n")

    def _playing(self) -> tuple[Game, State]:
        if self._game is None or self._state is None:
            raise RuntimeError("no game has been started")
        return self._game, self._state

    def _advance(self, action: str) -> Advance:
        self._state, answer, won = step(*self._playing(), action)
        if self._stock is not None:
            answer, won = self._stock.step(action)  # the original's response counts
        is_valid = answer != NOTHING_HAPPENS
        if answer.startswith("You arrive at loc "):
            answer = answer.split(". ", 1)[1]
        return Advance(answer, float(won), won, is_valid)

    def _reveal(self, name: str) -> Any:
        game, state = self._playing()
        if name == "admissible_actions":
            if self._stock is not None:
                return self._stock.admissible_commands()
            return admissible_commands(game, state)
        if name == "subgoals":
            return subgoals(game, state)
        if name in ("expert_action", "expert_plan"):
            plan = shortest_plan(game, state) or []
            return plan if name == "expert_plan" else (*plan, "")[0]
        return game.facts(state)

    def _world_state(self) -> Any:
        if self._stock is None:
            return self._state
        return StockState(self._stock.commands, self._playing()[1])

    def _set_world_state(self, task: Task, state: Any) -> None:
        if self._stock is not None:
            state = self._stock.restore(task.id, state)
        elif isinstance(state, StockState):
            state = state.native
        self._open(task)
        self._state = state


def make_vector_env(**kwargs: Any) -> TextVectorEnv:
    """The vector entry point: `TextVectorEnv` of `ALFWorldEnv`."""
    return TextVectorEnv(ALFWorldEnv, **kwargs)
