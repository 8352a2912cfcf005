"""`eto eval`, and the flags that name an agent."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from eto_agents.arguments import checked_arguments
from eto_agents.plain_text import printable
from eto_agents.settings import ProtocolName, Tracker, key_values
from eto_envs.errors import EtoError, UnknownNameError

if TYPE_CHECKING:
    from eto_agents.distributed import Cluster
    from eto_agents.policy import Policy

KeyValues = Annotated[tuple[str, ...], arg(metavar="KEY=VALUE …")]


@dataclass(frozen=True)
class AgentFlags:
    """Which agent plays; shared by the commands that play episodes.

    Attributes:
        policy: Agent that plays: random, expert, sloppy-expert, replay, react, best-of-n, the name
            of a plug-in, or package.module:Class. By default react if a model is given.
        model: Chat model of the agent: hf:PATH for a local model or a name on the Hugging Face hub,
            openai:NAME for a model behind an OpenAI-compatible server.
        prompts: Prompts of the agent: own, published, brief, or a TOML file.
        protocol: How a chat model acts: thought for "Thought: … Action: …" as in ETO, which is the
            default, or tool for calls of the tool act.
        best_of: Play every task this many times and count the best episode (Best-of-N).
        policy_args: Further arguments for the agent; values are JSON or plain text.
        action_timeout: Seconds an agent may take to decide before its episode ends as an error. By
            default there is no limit.
        ray: Play on a Ray cluster: local for one on this machine, or an address such as auto or
            ray://head:10001. Episodes are the same as without.
        ray_actors: Number of Ray actors, each with an agent and --n-envs episodes at once. By
            default one per core of the cluster; for a local model one per GPU, if it has any.
    """

    policy: str | None = None
    model: str | None = None
    prompts: str | None = None
    protocol: ProtocolName | None = None
    best_of: int | None = None
    policy_args: KeyValues = ()
    action_timeout: float | None = None
    ray: str | None = None
    ray_actors: int | None = None

    @contextlib.contextmanager
    def player(self) -> Iterator[Policy | Cluster]:
        """The policy, or the cluster on which it plays; raises the errors of `load`."""
        if self.ray is None:
            if self.ray_actors is not None:
                raise EtoError("--ray-actors needs --ray: local, or the address of a cluster")
            yield self.load()
            return
        from eto_agents.distributed import Cluster

        on_gpus = (self.model or "").startswith("hf:")
        at_least_one(ray_actors=self.ray_actors)
        with Cluster(self.load, self.ray, n_actors=self.ray_actors, on_gpus=on_gpus) as cluster:
            yield cluster

    def load(self) -> Policy:
        """Load the policy.

        Raises:
            UnknownNameError: no policy is given, or there is none of that name.
            EtoError: a number is out of range, or the policy does not take the arguments.
        """
        from eto_agents.best_of_n import BestOfN
        from eto_agents.policy import load_policy

        at_least_one(best_of=self.best_of)
        if self.action_timeout is not None and not self.action_timeout > 0:
            raise EtoError(f"--action-timeout must be more than 0, got {self.action_timeout}")
        try:
            policy = load_policy(self.policy_name(), **self._arguments())
            return policy if self.best_of is None else BestOfN(policy, self.best_of)
        except TypeError as error:
            if _raised_in_the_class(error):
                raise
            raise EtoError(f"{self.policy_name()}: {error}") from error

    def policy_name(self) -> str:
        """The policy's name, given by `--policy` or implied by `--model`."""
        if self.policy is None and self.model is None:
            raise UnknownNameError("agent", "", (), "Give --policy NAME or --model KIND:NAME.")
        return self.policy or "react"

    def folder_name(self) -> str:
        """The part of a default folder's name that stands for this agent."""
        best_of = None if self.best_of is None else f"best-of-{self.best_of}"
        parts = [best_of, self.policy_name(), self.model]
        text = "-".join(part for part in parts if part)
        return "".join(c if c.isalnum() or c in "-_." else "." for c in text).strip(".")

    def _arguments(self) -> dict[str, Any]:
        arguments = key_values(self.policy_args)
        for name, value in given(
            model=self.model, prompts=self.prompts, protocol=self.protocol
        ).items():
            if arguments.setdefault(name, value) != value:
                raise UnknownNameError(
                    name, value, (), f"--policy-args already says {name}={arguments[name]}."
                )
        return arguments


def run(  # noqa: PLR0913 (the flags of the command)
    agent: Annotated[AgentFlags, arg(name="")],
    env: str,
    splits: tuple[str, ...] = ("seen", "unseen"),
    out: Path | None = None,
    seeds: tuple[int, ...] = (0,),
    n_envs: int = 32,
    n_tasks: int | None = None,
    dataset: str | None = None,
    max_steps: int | None = None,
    env_args: KeyValues = (),
    agent_errors: Literal["exclude", "zero"] = "exclude",
    retry_agent_errors: bool = False,
    report_to: tuple[Tracker, ...] = (),
    quiet: bool = False,
) -> None:
    """Evaluate an agent on whole task sets. Rerun the command to resume.

    The run's folder receives episodes.jsonl, results.json and report.md.

    For example:
        eto eval --env ETO-ALFWorld-v0 --policy expert --splits seen unseen --out runs/expert
        eto eval --env ETO-WebShop-v0 --model openai:gpt-4o --n-tasks 20

    Args:
        agent: The agent that plays.
        env: Environment id, such as ETO-WebShop-v0.
        splits: Splits to play.
        out: Folder of the run; by default runs/ENV-POLICY.
        seeds: Seeds; every task is played once for each.
        n_envs: Number of episodes played at once.
        n_tasks: Play only the first N tasks of each split. By default all.
        dataset: Dataset of the environment: mini, an official name such as full, or a folder that
            holds the official files. By default the official data if downloaded, else mini.
        max_steps: Step limit of an episode; by default the protocol's.
        env_args: Further arguments for the environment; values are JSON or plain text.
        agent_errors: Exclude episodes in which the agent failed from the means, or count them as 0.
        retry_agent_errors: On resuming, play the episodes again in which the agent failed.
        report_to: Experiment trackers that receive the scores so far and the results.
        quiet: Show no progress, only the table.
    """
    from eto_agents.console import Display, show
    from eto_agents.evaluation.harness import evaluate
    from eto_agents.evaluation.tables import terminal_table

    at_least_one(n_envs=n_envs, n_tasks=n_tasks)
    arguments = env_arguments(env, env_args, dataset=dataset, max_steps=max_steps)
    folder = out or Path("runs") / f"{env}-{agent.folder_name()}"
    with resumable(folder), Display(quiet), agent.player() as player:
        results = evaluate(
            player,
            env,
            splits,
            seeds=seeds,
            out=folder,
            n_envs=n_envs,
            n_tasks=n_tasks,
            env_args=arguments,
            agent_errors=agent_errors,
            retry_agent_errors=retry_agent_errors,
            action_timeout_s=agent.action_timeout,
            report_to=report_to,
        )
    show(terminal_table(results), f"written to {folder}")


@contextlib.contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """On Ctrl-C and similar signals, print how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            text = f"stopped; rerun the command to resume ({folder})"
            sys.stderr.write(f"\n{printable(text)}\n")
        raise


def _raised_in_the_class(error: TypeError) -> bool:
    """Whether the error comes from inside the policy's class, not from how it was called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__") if trace is not None else None
    own = ("eto_agents.policy", "eto_agents.best_of_n", "eto_agents.models.base")
    return module not in own


def env_arguments(env: str, texts: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """The environment's arguments: ``--env-args``, and those of `more` that are not None.

    Raises:
        UnknownNameError: the environment takes no argument of that name.
        SettingsError: a value has the wrong type.
    """
    import eto_envs  # noqa: F401 (registers the ids)
    from eto_envs.registration import find_env

    arguments = key_values(texts) | given(**more)
    of_gymnasium = ("max_episode_steps",)
    own = {name: value for name, value in arguments.items() if name not in of_gymnasium}
    return arguments | checked_arguments(find_env(env)[1], own, f"environment {env!r}")


def given(**arguments: Any) -> dict[str, Any]:
    """Select the arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def at_least_one(**numbers: int | None) -> None:
    """Check flags that have to be positive.

    Raises:
        EtoError: a flag is given and less than 1.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise EtoError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
