"""A person at the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eto_agents.policy import Decision
from eto_envs.shaping import Info
from eto_envs.tasks import Task

HELP = "Type an action, or :actions (what can be done), :goal, :help, :quit."


class HumanPolicy:
    """Shows the observation and asks for the action."""

    name = "human"
    reveal = ("admissible_actions",)
    n_envs = 1

    def __init__(self, console: Any = None) -> None:
        """Make it; `console` is a `rich.console.Console`, by default the terminal's."""
        if console is None:
            from rich.console import Console

            console = Console(highlight=False)
        self._console = console

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Say which task begins."""
        for task in tasks:
            self._console.rule(f"task {task.id}")
            self._console.print(HELP, style="dim")

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Ask until an action is given.

        Raises:
            KeyboardInterrupt: the person wants to stop.
        """
        return [self._ask(text, info) for text, info in zip(observations, infos, strict=True)]

    def _ask(self, observation: str, info: Info) -> Decision:
        self._console.print()
        self._console.print(observation.replace(" [SEP] ", "\n"), markup=False)
        if not info["is_valid_action"]:
            self._console.print("(that did nothing)", style="yellow")
        answers = {
            ":actions": "\n".join(info["admissible_actions"]),
            ":goal": info["goal"],
            ":help": HELP,
        }
        while True:
            try:
                line = self._console.input("[bold]> [/bold]").strip()
            except EOFError:
                raise KeyboardInterrupt from None
            if line == ":quit":
                raise KeyboardInterrupt
            if line in answers:
                self._console.print(answers[line], markup=False, style="dim")
            elif line:
                return Decision(line)
