"""`ReActPolicy`: a chat model that thinks and acts, in every world by the same rules.

The conversation is ETO's: instruction, worked example, task, then the agent's texts and the world's
answers in turn. A text without an action costs a step: the world gets the empty command, which none
accepts, so the step is one of the trajectory's and counts as an invalid action, and the agent reads
ETO's error message.

Differs from the reference: (1) the step's observation in the trajectory is the world's own answer
to the empty command, not the message; `eto_agents.react.context.transcript` gives what was read.
(2) ETO does not call the world at all then. It makes no difference but in ScienceWorld, where the
empty command cancels a pending choice from a numbered list; and ETO sets ScienceWorld's reward to 0
until the next action, which counts if the episode ends there. (3) A conversation that is too long
loses its oldest turns (`eto_agents.react.context`); ETO ends the episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eto_agents.models.base import ChatModel, Completion, Sampling, load_model
from eto_agents.policy import Decision
from eto_agents.react.context import ContextOverflowError, Conversation, estimate_tokens
from eto_agents.react.prompts import find_prompt, load_prompts, prompt_key
from eto_agents.trajectory import Message
from eto_envs.shaping import Info
from eto_envs.tasks import Task


class ReActPolicy:
    """Asks a chat model for "Thought: … Action: …", all live episodes in one call.

    Attributes:
        name: ``"react (<the model's name>)"``.
        provenance: model, sampling, prompts with their hashes, and the context's bound.
        model: the model.
        sampling: how it is sampled.

    Args:
        model: a model or its name, such as ``"openai:gpt-4o-mini"`` (`models.load_model`).
        prompts: ``"own"``, ``"published"`` (ETO's, from the data cache), or a TOML file's path; by
            default what the model was trained with if it says so, else ``"own"``.
        world: which of the prompts to use; by default the environment's own.
        with_example: whether the worked example is shown; by default as the model was trained if it
            says so, else it is.
        max_context_tokens: what the model can read and write at once; by default what the
            model says of itself, without bound if it says nothing.
        temperature: 0 takes the likeliest token.
        top_p: the share of probability that is drawn from.
        max_tokens: the most a turn has.
        stop: texts before which a turn ends; by default ETO's.
        **model_arguments: for a model that is named.
    """

    def __init__(  # noqa: PLR0913 (each is one thing that a user decides)
        self,
        model: ChatModel | str = "",
        *,
        prompts: str | None = None,
        world: str | None = None,
        with_example: bool | None = None,
        max_context_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        stop: Sequence[str] | None = None,
        **model_arguments: Any,
    ) -> None:
        """Choose model, prompts and sampling; see the class.

        Raises:
            UnknownNameError: no such model or world.
            DataNotFoundError: the prompts are not there.
            ValueError: a number is out of range.
            TypeError: arguments for a model that was given, not named, or that it does not take.
        """
        if isinstance(model, str):
            model = load_model(model, **model_arguments)
        elif model_arguments:
            raise TypeError(f"unexpected arguments: {', '.join(model_arguments)}")
        if prompts is None:
            prompts = str(getattr(model, "prompts", "own"))
        if with_example is None:
            with_example = bool(getattr(model, "with_example", True))
        stops = {} if stop is None else {"stop": tuple([stop] if isinstance(stop, str) else stop)}
        self.model = model
        self.sampling = Sampling(temperature, top_p, max_tokens, **stops)
        self.name = f"react ({model.name})"
        self._prompts = load_prompts(prompts)
        if world is not None:
            find_prompt(self._prompts, world)
        self._world = world
        self._with_example = with_example
        if max_context_tokens is None:
            max_context_tokens = getattr(model, "max_context_tokens", None)
        self._room = None if max_context_tokens is None else max_context_tokens - max_tokens
        if self._room is not None and self._room < 1:
            raise ValueError(
                f"max_context_tokens {max_context_tokens} leaves no room beside max_tokens "
                f"{max_tokens}"
            )
        self._count_tokens = getattr(model, "count_tokens", estimate_tokens)
        self._seeds: dict[int, int] = {}
        self._conversations: dict[int, Conversation] = {}
        shown = self._prompts if world is None else {world: find_prompt(self._prompts, world)}
        self.provenance: dict[str, Any] = {
            "model": model.name,
            "model_provenance": dict(getattr(model, "provenance", {})),
            "sampling": self.sampling.record(),
            "prompts": prompts if prompts in ("own", "published", "brief") else "file",
            "prompt_sha256": {name: prompt.sha256 for name, prompt in shown.items()},
            "with_example": with_example,
            "max_context_tokens": max_context_tokens,
        }

    def reset(self, slots: Sequence[int], tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """Forget what was said in the slots."""
        self._seeds.update(zip(slots, seeds, strict=True))
        for slot in slots:
            self._conversations.pop(slot, None)

    def act(
        self, slots: Sequence[int], observations: Sequence[str], infos: Sequence[Info]
    ) -> list[Decision]:
        """Ask the model in every slot whose conversation fits into its context."""
        decisions: dict[int, Decision] = {}
        chats: dict[int, list[Message]] = {}
        for slot, observation, info in zip(slots, observations, infos, strict=True):
            try:
                chats[slot] = self._read(slot, observation, info)
            except ContextOverflowError as error:
                decisions[slot] = Decision("", error=str(error))
        for slot, completion in zip(chats, self._ask(chats), strict=True):
            decisions[slot] = _decide(self._conversations[slot], completion)
        return [decisions[slot] for slot in slots]

    def conversation(self, slot: int) -> list[Message]:
        """All that was said in a slot, what the model does not read any more included."""
        held = self._conversations.get(slot)
        return [] if held is None else held.whole()

    def _read(self, slot: int, observation: str, info: Info) -> list[Message]:
        """Take the observation in; the chat to be continued."""
        if slot in self._conversations:
            self._conversations[slot].hear(observation)
        else:
            prompt = find_prompt(self._prompts, self._world or prompt_key(info))
            self._conversations[slot] = Conversation(
                prompt, observation, with_example=self._with_example
            )
        if self._room is None:
            return self._conversations[slot].messages()
        return self._conversations[slot].fit(self._room, self._count_tokens)

    def _ask(self, chats: Mapping[int, list[Message]]) -> list[Completion]:
        if not chats:
            return []
        # A seed for every turn of every episode: what is drawn does not depend on the batch.
        turns = [(self._seeds[slot], self._conversations[slot].n_turns) for slot in chats]
        seeds = [(seed + n_turns) % 2**63 for seed, n_turns in turns]
        return self.model.generate(list(chats.values()), self.sampling, seeds)


def _decide(conversation: Conversation, completion: Completion) -> Decision:
    """The decision that a completion means; a failed one ends the episode."""
    if completion.error:
        return Decision("", usage=completion.usage, error=completion.error)
    said = conversation.say(completion.text)
    usage = {**completion.usage, "dropped_turns": float(conversation.n_dropped)}
    if said.error:
        usage["format_errors"] = 1.0
    if completion.finish_reason == "length":
        usage["cut_off"] = 1.0
    return Decision(
        said.action,
        text=completion.text,
        thought=said.thought,
        token_ids=completion.token_ids,
        log_probs=completion.log_probs,
        usage=usage,
    )
