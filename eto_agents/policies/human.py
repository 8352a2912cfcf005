"""`HumanPolicy`: a person plays in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eto_agents.console import console as terminal
from eto_agents.console import rule
from eto_agents.plain_text import printable
from eto_agents.policy import Decision
from eto_envs.shaping import Info
from eto_envs.tasks import Task

HELP = "Type an action, or :actions (list the possible actions), :goal, :help, :quit."


class HumanPolicy:
    """Shows each observation and reads the action from the terminal."""

    name = "human"
    reveal = ("admissible_actions",)
    n_envs = 1

    def __init__(self, console: Any = None) -> None:
        """Use a `rich.console.Console`; by default the terminal's."""
        self._console = console or terminal()

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Print the task's id and the help text."""
        for task in tasks:
            self._console.print(rule(f"task {task.id}"))
            self._print(HELP, style="dim")

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Read an action for each of `slots`.

        Raises:
            KeyboardInterrupt: the person quits.
        """
        return [self._read(text, info) for text, info in zip(observations, infos, strict=True)]

    def _read(self, observation: str, info: Info) -> Decision:
        self._console.print()
        self._print(observation.replace(" [SEP] ", "\n"))
        if not info["is_valid_action"]:
            self._print("(that did nothing)", style="yellow")
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
                self._print(answers[line], style="dim")
            elif line:
                return Decision(line)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(printable(text), style=style, markup=False, emoji=False)
