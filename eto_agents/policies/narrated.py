"""`NarratedPolicy`: gives the decisions of a policy that has no words the words of an agent.

An expert names actions; what a model is trained on is "Thought: … Action: …". Here every action
gets a thought that says what is known so far and what is intended, from the rules of its world
(`eto_agents.worlds`); ETO's expert trajectories have theirs from GPT-4 (the paper's Section 4.1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eto_agents.policy import Decision, as_policy, conversation_of
from eto_agents.trajectory import Message
from eto_agents.worlds import find_world
from eto_agents.worlds.base import known_world
from eto_agents.worlds.narrator import STYLES, Narrator, Style
from eto_envs.errors import UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class NarratedPolicy:
    """Adds thoughts to the decisions of another policy, which stay what they are.

    A decision that has a text already, gives no action or failed is passed on untouched; so is one
    whose action cannot be read back from a text (with white space around it).

    Attributes:
        name: the wrapped policy's; what it does is its own.
        reveal: what the wrapped policy needs in `info`.
        provenance: the wrapped policy's, with the style of the thoughts.

    Args:
        policy: anything `as_policy` takes.
        style: ``"full"``: one or two sentences, wording drawn by the episode's seed; ``"brief"``:
            a few words, fixed wording; ``"none"``: the action alone, as "Action: …".
        world: whose words to use; by default the environment's own.
    """

    def __init__(
        self, policy: Any = "expert", *, style: Style = "full", world: str | None = None
    ) -> None:
        """Wrap a policy; see the class.

        Raises:
            UnknownNameError: an unknown style, world or policy.
        """
        if style not in STYLES:
            raise UnknownNameError("style of thoughts", style, STYLES)
        if world is not None and style != "none":
            _narrator(world, style, random.Random(0))
        self._policy = as_policy(policy)
        self._style = style
        self._world = world
        self.name = str(getattr(self._policy, "name", type(self._policy).__name__))
        self.reveal = tuple(getattr(self._policy, "reveal", ()))
        own = dict(getattr(self._policy, "provenance", {}))
        self.provenance: dict[str, Any] = own | {"thoughts": style}
        for name in ("n_envs", "n_samples"):  # what the harness asks of a policy
            if hasattr(self._policy, name):
                setattr(self, name, getattr(self._policy, name))
        self._seeds: dict[int, int] = {}
        self._narrators: dict[int, Narrator] = {}

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin episodes; their thoughts begin with the first observation."""
        self._policy.reset(slots, tasks, seeds)
        self._seeds.update(zip(slots, seeds, strict=True))
        for slot in slots:
            self._narrators.pop(slot, None)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """The wrapped policy's decisions, with words.

        Raises:
            UnknownNameError: there are no thoughts for this world.
        """
        decisions = self._policy.act(slots, observations, infos)
        rows = zip(slots, observations, infos, decisions, strict=True)
        return [self._narrate(*row) for row in rows]

    def conversation(self, slot: int) -> list[Message]:
        """The wrapped policy's."""
        return conversation_of(self._policy, slot)

    def _narrate(self, slot: int, observation: str, info: Info, decision: Decision) -> Decision:
        thought = self._think(slot, observation, info, decision.action)
        if decision.text or decision.error or not decision.action:
            return decision
        decision = replace(decision, action=_as_shown(decision.action, observation))
        text = f"Thought: {thought}\nAction: {decision.action}" if thought else ""
        text = text or f"Action: {decision.action}"
        world = find_world(self._world or ("" if self._style == "none" else str(info["world"])))
        if world.format.parse(text).action != decision.action:
            return decision
        return replace(decision, text=text, thought=thought)

    def _think(self, slot: int, observation: str, info: Info, action: str) -> str:
        """The thought, without what could be taken for the format's own words."""
        if self._style == "none":
            return ""
        if slot not in self._narrators:
            world, rng = self._world or str(info["world"]), random.Random(self._seeds[slot])
            self._narrators[slot] = _narrator(world, self._style, rng)
        thought = self._narrators[slot].think(observation, action)
        return thought.replace("Action:", "Action").replace("Thought:", "Thought")


def _as_shown(action: str, observation: str) -> str:
    """A click with its label as the page has it: what is written is then a copy of what is read.

    Experts click in small letters, as WebShop lists its actions; pages, and ETO's demonstrations,
    have item codes in capitals. The shop takes both.
    """
    label = action.removeprefix("click[").removesuffix("]")
    if action == f"click[{label}]" and label not in observation and label.upper() in observation:
        return f"click[{label.upper()}]"
    return action


def _narrator(world: str, style: Style, rng: random.Random) -> Narrator:
    hint = "Collect with --thoughts none there."
    narrator = known_world(world, "thoughts for world", hint).narrator(style, rng)
    if narrator is None:
        raise UnknownNameError("thoughts for world", world, (), hint)
    return narrator
