"""`NarratedPolicy`: adds thoughts to the actions of a policy that has none, such as an expert.

An expert returns actions only, but a model is trained on "Thought: … Action: …". Here each action
gets a thought that states what is known so far and what is intended, made by the rules of its world
(`eto_agents.worlds`); the thoughts in ETO's expert trajectories are by GPT-4 (the paper's section
4.1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eto_agents.policy import Decision, as_policy, conversation_of, name_of, reveal_of
from eto_agents.trajectory import Message
from eto_agents.worlds import find_world
from eto_agents.worlds.base import known_world
from eto_agents.worlds.narrator import STYLES, Narrator, Style
from eto_envs.errors import UnknownNameError
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class NarratedPolicy:
    """Adds thoughts to the decisions of another policy, without changing its actions.

    A decision is passed on unchanged if it already has a text, has no action or failed, or if its
    action could not be parsed from the text (because of surrounding white space).

    Attributes:
        name: the wrapped policy's name.
        reveal: what the wrapped policy needs in `info`.
        provenance: the wrapped policy's provenance, with the style of the thoughts.

    Args:
        policy: anything `as_policy` takes.
        style: ``"full"``: one or two sentences, whose wording is drawn with the episode's seed;
            ``"brief"``: a few words in a fixed wording; ``"none"``: the action alone, as
            "Action: …".
        world: the world whose narrator is used; by default the environment's.
    """

    def __init__(
        self, policy: Any = "expert", *, style: Style = "full", world: str | None = None
    ) -> None:
        """Wrap a policy.

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
        self.name = name_of(self._policy)
        self.reveal = reveal_of(self._policy)
        provenance = dict(getattr(self._policy, "provenance", {}))
        self.provenance: dict[str, Any] = provenance | {"thoughts": style}
        # Attributes that the evaluation harness and the rollouts look for.
        for name in ("n_envs", "n_samples", "concurrent", "tools"):
            if hasattr(self._policy, name):
                setattr(self, name, getattr(self._policy, name))
        self._seeds: dict[int, int] = {}
        self._narrators: dict[int, Narrator] = {}

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin an episode in each of `slots`."""
        self._policy.reset(slots, tasks, seeds)
        self._seeds.update(zip(slots, seeds, strict=True))
        for slot in slots:
            self._narrators.pop(slot, None)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Return the wrapped policy's decisions with thoughts.

        Raises:
            UnknownNameError: the world has no narrator.
        """
        decisions = self._policy.act(slots, observations, infos)
        rows = zip(slots, observations, infos, decisions, strict=True)
        return [self._narrate(*row) for row in rows]

    def conversation(self, slot: int) -> list[Message]:
        """The wrapped policy's conversation in a slot."""
        return conversation_of(self._policy, slot)

    def _narrate(self, slot: int, observation: str, info: Info, decision: Decision) -> Decision:
        thought = self._think(slot, observation, info, decision.action)
        if decision.text or decision.error or not decision.action:
            return decision
        decision = replace(decision, action=_match_case(decision.action, observation))
        text = f"Thought: {thought}\nAction: {decision.action}" if thought else ""
        text = text or f"Action: {decision.action}"
        world = find_world(self._world or ("" if self._style == "none" else str(info["world"])))
        if world.format.parse(text).action != decision.action:
            return decision
        return replace(decision, text=text, thought=thought)

    def _think(self, slot: int, observation: str, info: Info, action: str) -> str:
        """The thought for an action, without text that could be parsed as part of the format."""
        if self._style == "none":
            return ""
        if slot not in self._narrators:
            world, rng = self._world or str(info["world"]), random.Random(self._seeds[slot])
            self._narrators[slot] = _narrator(world, self._style, rng)
        thought = self._narrators[slot].think(observation, action)
        return thought.replace("Action:", "Action").replace("Thought:", "Thought")


def _match_case(action: str, observation: str) -> str:
    """Write the label of a click in upper case if the page does, so that it is a copy of the page.

    Experts click in lower case, as WebShop lists its actions, but pages and ETO's demonstrations
    have item codes in upper case. The shop accepts both.
    """
    label = action.removeprefix("click[").removesuffix("]")
    if action == f"click[{label}]" and label not in observation and label.upper() in observation:
        return f"click[{label.upper()}]"
    return action


def _narrator(world: str, style: Style, rng: random.Random) -> Narrator:
    hint = "Collect without --thoughts in this world."
    narrator = known_world(world, "thoughts for world", hint).narrator(style, rng)
    if narrator is None:
        raise UnknownNameError("thoughts for world", world, (), hint)
    return narrator
