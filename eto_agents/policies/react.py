"""`ReActPolicy`: a chat model that thinks and acts, by the same rules in every world.

The conversation is ETO's: instruction, worked example, task, and then the agent's replies and the
observations in turn; with ``protocol="tool"``, replies are tool calls. A reply without an action
costs a step: the environment gets the empty command, which no world accepts, so the step is
recorded and counts as an invalid action, and the agent reads ETO's error message.

Differs from the reference: (1) The step's observation in the trajectory is the environment's
response to the empty command, not the error message; `eto_agents.react.context.transcript` returns
what the agent read. (2) ETO does not call the environment in this case. This matters only in
ScienceWorld, where the empty command cancels a pending choice from a numbered list; and ETO sets
ScienceWorld's reward to 0 until the next action, which counts if the episode ends there. (3) From a
conversation that is too long the oldest turns are dropped (`eto_agents.react.context`); ETO ends
the episode. (4) What a reasoning model writes between ``<think>`` and ``</think>`` is not parsed,
unless ``strip_reasoning=False``; it stays in the conversation.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from eto_agents.arguments import UnknownArgumentError
from eto_agents.chat_episode import decision_of
from eto_agents.models.base import ChatModel, Completion, Sampling, complete, load_model
from eto_agents.policy import Decision, is_concurrent
from eto_agents.react.context import ContextOverflowError, Conversation, estimate_tokens
from eto_agents.react.prompts import find_prompt, load_prompts, prompt_key
from eto_agents.react.protocols import choose_protocol, find_protocol
from eto_agents.react.tools import ACT
from eto_agents.settings import ProtocolName, SettingsError
from eto_agents.trajectory import Message, Tool
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class ReActPolicy:
    """A policy that prompts a chat model for "Thought: … Action: …", in many episodes at once.

    Attributes:
        name: ``"react (<the model's name>)"``.
        provenance: model, sampling, prompts with their hashes, and the context limit.
        model: the chat model.
        sampling: how replies are sampled.
        tools: what the model can call: the tool `act`, or nothing.
        concurrent: whether the model can be called from several threads at once; each episode then
            goes on as soon as its own reply is there.

    Args:
        model: a model or its name, such as ``"openai:gpt-4o-mini"`` (`models.load_model`).
        protocol: ``"thought"``: the model writes "Thought: … Action: …", as in ETO; ``"tool"``: it
            calls the tool `act` (`eto_agents.react.protocols`). By default the one that the model
            was trained with, else ``"thought"``.
        prompts: ``"own"``, ``"published"`` (ETO's, from the data cache), ``"brief"``, or the path
            of a TOML file; by default those that the model was trained with, else ``"own"``.
        world: the world whose prompt is used; by default the environment's.
        with_example: whether the prompt contains the worked example; by default as the model was
            trained, else true.
        max_context_tokens: maximum number of tokens that the model can read and write; by default
            the model's own limit, if it has one.
        temperature: sampling temperature; 0 selects the most likely token.
        top_p: probability mass of the most likely tokens to sample from, in (0, 1].
        max_tokens: maximum number of tokens of a reply.
        stop: texts at which a reply ends; by default ETO's, with the protocol ``"tool"`` none.
        strip_reasoning: do not look for the action in a reasoning model's ``<think>…</think>``;
            false parses the whole reply, as ETO's harness does.
        **model_arguments: keyword arguments for the model, if it is given by name.
    """

    def __init__(  # noqa: PLR0913 (each is a separate choice of the user)
        self,
        model: ChatModel | str = "",
        *,
        protocol: ProtocolName | None = None,
        prompts: str | None = None,
        world: str | None = None,
        with_example: bool | None = None,
        max_context_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        stop: Sequence[str] | None = None,
        strip_reasoning: bool = True,
        **model_arguments: Any,
    ) -> None:
        """Load the model and the prompts.

        Raises:
            UnknownNameError: there is no such model, world or protocol.
            DataNotFoundError: the prompts are missing.
            SettingsError: an argument has the wrong type or is out of range, the prompts do not go
                with the protocol, or the model was trained with another one.
            TypeError: there are arguments for a model that is not given by name, or that it does
                not take.
        """
        if isinstance(model, str):
            try:
                model = load_model(model, **model_arguments)
            except UnknownArgumentError as error:  # it may be one of ours, misspelt
                known = [*error.known, *_OWN_ARGUMENTS]
                raise UnknownArgumentError(error.target, error.name, known) from None
        elif model_arguments:
            raise TypeError(f"unexpected arguments: {', '.join(model_arguments)}")
        if prompts is None:
            prompts = str(getattr(model, "prompts", "own"))
        if with_example is None:
            with_example = bool(getattr(model, "with_example", True))
        protocol = choose_protocol(protocol, getattr(model, "protocol", None))
        if stop is None and protocol == "tool":
            stop = ()
        stops = {} if stop is None else {"stop": tuple([stop] if isinstance(stop, str) else stop)}
        self.model = model
        self.sampling = Sampling(temperature, top_p, max_tokens, **stops)
        self.name = f"react ({model.name})"
        self.concurrent = is_concurrent(model)
        self._prompts = load_prompts(prompts)
        used = self._prompts if world is None else {world: find_prompt(self._prompts, world)}
        for prompt in used.values():
            find_protocol(protocol, prompt)
        self._protocol = protocol
        self.tools: tuple[Tool, ...] = (ACT,) if protocol == "tool" else ()
        self._world = world
        self._with_example = with_example
        self._strip_reasoning = strip_reasoning
        if max_context_tokens is None:
            max_context_tokens = getattr(model, "max_context_tokens", None)
        self._max_prompt_tokens = (
            None if max_context_tokens is None else max_context_tokens - max_tokens
        )
        if self._max_prompt_tokens is not None and self._max_prompt_tokens < 1:
            raise SettingsError(
                f"max_context_tokens {max_context_tokens} leaves no room for a prompt, since a "
                f"reply may have {max_tokens} tokens (max_tokens)"
            )
        self._count_tokens = getattr(model, "count_tokens", estimate_tokens)
        self._seeds: dict[int, int] = {}
        self._conversations: dict[int, Conversation] = {}
        self.provenance: dict[str, Any] = {
            "model": model.name,
            "model_provenance": dict(getattr(model, "provenance", {})),
            "sampling": self.sampling.record(),
            "prompts": prompts if prompts in ("own", "published", "brief") else "file",
            "prompt_sha256": {name: prompt.sha256 for name, prompt in used.items()},
            "with_example": with_example,
            "max_context_tokens": max_context_tokens,
        }
        # As before there was a choice, so that earlier runs can be resumed.
        self.provenance |= {} if strip_reasoning else {"strip_reasoning": False}
        self.provenance |= {} if protocol == "thought" else {"protocol": protocol}

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Begin a new conversation in each of `slots`."""
        self._seeds.update(zip(slots, seeds, strict=True))
        for slot in slots:
            self._conversations.pop(slot, None)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Prompt the model in every slot; one whose conversation does not fit its context fails."""
        decisions: dict[int, Decision] = {}
        chats: dict[int, list[Message]] = {}
        for slot, observation, info in zip(slots, observations, infos, strict=True):
            try:
                chats[slot] = self._continue(slot, observation, info)
            except ContextOverflowError as error:
                decisions[slot] = Decision("", error=str(error), is_permanent=True)
        # A call that outlives its run must not write into the conversations of the next one.
        conversations = {slot: self._conversations[slot] for slot in chats}
        for slot, completion in zip(chats, self._generate(chats), strict=True):
            decisions[slot] = decision_of(conversations[slot], completion)
        return [decisions[slot] for slot in slots]

    def conversation(self, slot: int) -> list[Message]:
        """The whole conversation in a slot, including turns that were dropped from the context."""
        conversation = self._conversations.get(slot)
        return [] if conversation is None else conversation.whole()

    def _continue(self, slot: int, observation: str, info: Info) -> list[Message]:
        """Add an observation to a slot's conversation, and return the chat for the model."""
        if slot in self._conversations:
            self._conversations[slot].add_observation(observation)
        else:
            prompt = find_prompt(self._prompts, self._world or prompt_key(info))
            self._conversations[slot] = Conversation(
                prompt,
                observation,
                protocol=self._protocol,
                with_example=self._with_example,
                strip_reasoning=self._strip_reasoning,
            )
        if self._max_prompt_tokens is None:
            return self._conversations[slot].messages()
        conversation = self._conversations[slot]
        count = self._count_tokens
        if self.tools:
            count = functools.partial(count, tools=self.tools)
        return conversation.fit(self._max_prompt_tokens, count)

    def _generate(self, chats: Mapping[int, list[Message]]) -> list[Completion]:
        if not chats:
            return []
        # A seed for every turn of every episode, so that samples do not depend on the batch.
        turns = [(self._seeds[slot], self._conversations[slot].n_turns) for slot in chats]
        seeds = [(seed + n_turns) % 2**63 for seed, n_turns in turns]
        return complete(self.model, list(chats.values()), self.sampling, seeds, tools=self.tools)


_OWN_ARGUMENTS = [*inspect.signature(ReActPolicy).parameters][:-1]  # not **model_arguments
