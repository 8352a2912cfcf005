"""The conversation of one episode, and what of it a model with a bounded context gets to read.

The rule for a conversation that is too long, the only one there is: turns (what the agent said and
the reply to it) are dropped from the oldest on; when only the last turn is left, the worked example
is dropped; the instruction, the task and the last turn never are. What was dropped stays dropped,
so that what a model reads grows at its end alone between two drops. How many turns were dropped is
in every decision's usage; ETO's harness ends the episode instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from eto_agents.react.parse import Parsed
from eto_agents.react.prompts import Prompt
from eto_agents.trajectory import Message, Step
from eto_envs.errors import EtoError

Counter = Callable[[Sequence[Message]], int]
"""Number of tokens of a chat."""


class ContextOverflowError(EtoError):
    """Not even instruction, task and last turn fit into the model's context."""


def estimate_tokens(messages: Sequence[Message]) -> int:
    """Tokens of a chat, where no tokenizer is at hand: a third of the bytes, and 8 a message.

    English takes four bytes a token or more, so this errs on the safe side.
    """
    return sum(8 + -(-len(message["content"].encode()) // 3) for message in messages)


class Conversation:
    """What was said in one episode.

    Attributes:
        n_dropped: turns that the model does not read any more.
        has_example: whether it still reads the worked example.
    """

    def __init__(self, prompt: Prompt, observation: str, *, with_example: bool = True) -> None:
        """Begin with the prompt and the task."""
        self._prompt = prompt
        self._observation = observation
        self._turns: list[tuple[Message, Message]] = []
        self._said: tuple[str, Parsed] | None = None
        self.n_dropped = 0
        self._began_with_example = self.has_example = with_example and bool(prompt.example)

    @property
    def n_turns(self) -> int:
        """Turns so far, dropped ones included."""
        return len(self._turns)

    def say(self, text: str) -> Parsed:
        """Note what the agent wrote, and read its action."""
        parsed = self._prompt.format.parse(text)
        self._said = text, parsed
        return parsed

    def hear(self, observation: str) -> None:
        """Note the world's answer; the agent reads an error message if it gave no action.

        Raises:
            RuntimeError: the agent has said nothing that this could answer.
        """
        if self._said is None:
            raise RuntimeError("hear() without say()")
        text, parsed = self._said
        reply = self._prompt.format.reply(observation, parsed)
        self._turns.append(
            ({"role": "assistant", "content": text}, {"role": "user", "content": reply})
        )
        self._said = None

    def messages(self) -> list[Message]:
        """What the model reads next."""
        chat = self._prompt.head(with_example=self.has_example)
        chat.append(self._prompt.task(self._observation, with_example=self.has_example))
        for turn in self._turns[self.n_dropped :]:
            chat.extend(turn)
        return chat

    def whole(self) -> list[Message]:
        """All of it, dropped turns and the agent's last words included."""
        chat = self._prompt.head(with_example=self._began_with_example)
        chat.append(self._prompt.task(self._observation, with_example=self._began_with_example))
        for turn in self._turns:
            chat.extend(turn)
        if self._said is not None:
            chat.append({"role": "assistant", "content": self._said[0]})
        return chat

    def fit(self, max_tokens: int, count: Counter = estimate_tokens) -> list[Message]:
        """Drop by the rule until the chat has at most `max_tokens`.

        Args:
            max_tokens: room for the chat, what the model writes not included.
            count: the model's own counting.

        Returns:
            What the model reads next.

        Raises:
            ContextOverflowError: it cannot be made to fit.
        """
        while (n_tokens := count(chat := self.messages())) > max_tokens:
            if self.n_dropped < len(self._turns) - 1:
                self.n_dropped += 1
            elif self.has_example:
                self.has_example = False
            else:
                raise ContextOverflowError(
                    f"instruction, task and last turn have {n_tokens} tokens, there is room for "
                    f"{max_tokens}: use a model with a longer context"
                )
        return chat


def transcript(
    prompt: Prompt, observation: str, steps: Iterable[Step], *, with_example: bool = True
) -> list[Message]:
    """The whole chat of a recorded episode, its last observation included.

    For an episode that a `ReActPolicy` played with the same prompt it is `Trajectory.messages` and
    the answer to the last action. Replies have their prefix, and after a text without an action
    there is the harness's error message where the trajectory has the world's answer.

    Args:
        prompt: what the agent was told.
        observation: the episode's first.
        steps: its steps; one without a text counts as if the action alone had been written.
        with_example: whether the agent saw the worked example.
    """
    conversation = Conversation(prompt, observation, with_example=with_example)
    for step in steps:
        conversation.say(step.text or (f"Action: {step.action}" if step.action else ""))
        conversation.hear(step.observation)
    return conversation.messages()
