"""`evaluate`: plays whole task sets with any agent and writes results with their provenance.

A run is a folder: `run.json` (what is being run), `episodes.jsonl` (every episode, appended when it
ends), `results.json` and `report.md` (written at the end). Calling it again on the same folder
resumes the run.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from eto_agents.console import Episodes, Progress
from eto_agents.distributed import Cluster, about
from eto_agents.episodes import FINAL, play_into, played_job, split_jobs
from eto_agents.evaluation import provenance
from eto_agents.evaluation.reporting import Reporter
from eto_agents.evaluation.results import (
    AgentErrors,
    Results,
    SplitResult,
    n_tokens,
    summarise,
)
from eto_agents.evaluation.samples import best_of_each, by_task_and_seed, summarise_samples
from eto_agents.evaluation.tables import results_page
from eto_agents.live_episode import Job
from eto_agents.policy import Policy, as_policy
from eto_agents.rollout import jobs_of, open_task_set
from eto_agents.runs import episodes_folder
from eto_agents.store import TrajectoryStore
from eto_agents.trajectory import PLAYED, EpisodeKey, EpisodeSummary, Trajectory
from eto_envs.errors import UnknownNameError
from eto_envs.files import write_whole
from eto_envs.tasks import Task, TaskSet


def evaluate(  # noqa: PLR0913 (each is a choice of the user's)
    policy: Any,
    env_id: str,
    splits: Sequence[str] = ("seen", "unseen"),
    *,
    seeds: Sequence[int] = (0,),
    out: str | Path | None = None,
    n_envs: int = 32,
    batch_size: int | None = None,
    n_tasks: int | None = None,
    env_args: Mapping[str, Any] | None = None,
    agent_errors: AgentErrors = "exclude",
    retry_agent_errors: bool = False,
    action_timeout_s: float | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    report_to: Sequence[str] = (),
) -> Results:
    """Play every task of the splits and average the final scores.

    Args:
        policy: a policy, a one-episode agent, a class of either, a name, or a
            `eto_agents.distributed.Cluster` on which an agent plays. With a
            `eto_agents.best_of_n.BestOfN` every sample is played and logged, and the best counts.
        env_id: the Gymnasium id.
        splits: the task sets to play.
        seeds: every task is played once under each seed.
        out: the run's folder; with None nothing is saved.
        n_envs: the number of episodes played at once, by each actor of a cluster. It does not
            change the results, unless the agent's episodes influence each other.
        batch_size: another name of `n_envs`, for callers outside this project.
        n_tasks: play only the first `n_tasks` tasks of each split; the results state it.
        env_args: keyword arguments for the environment.
        agent_errors: ``"exclude"`` leaves episodes in which the agent failed out of the means,
            ``"zero"`` counts them as 0.
        retry_agent_errors: replay the episodes that ended as `agent_error` in an earlier call.
        action_timeout_s: seconds after which an agent that has not answered counts as failed; with
            None there is no limit.
        facts: further facts for ``run.json``, such as a collection's minimum score.
        progress: called whenever an episode ends; by default the open
            `eto_agents.console.Display`, if any, shows the progress.
        report_to: experiment trackers that receive the results, and while the episodes are played
            their mean score so far (`eto_agents.tracking`).

    Returns:
        The results, which are also written to `out`.

    Raises:
        UnknownNameError: a split, policy, tracker or argument does not exist.
        DataError: `out` holds another run.
        MissingExtraError: the package of a tracker is not installed.
        AgentFailedError: the agent fails in every episode, as with a wrong API key; repeat the
            call to resume.
    """
    if isinstance(splits, str):
        raise TypeError(f"splits must be a sequence of names, got the string {splits!r}")
    if agent_errors not in ("exclude", "zero"):
        raise UnknownNameError("agent_errors", agent_errors, ("exclude", "zero"))
    with contextlib.ExitStack() as stack:
        run = _Run(
            policy=policy if isinstance(policy, Cluster) else as_policy(policy),
            env_id=env_id,
            out=Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out),
            env_args=dict(env_args or {}),
            n_envs=n_envs if batch_size is None else batch_size,
            agent_errors=agent_errors,
            final=PLAYED if retry_agent_errors else FINAL,
            action_timeout_s=action_timeout_s,
            facts=dict(facts or {}),
            report_progress=progress or Episodes(),
            report_to=report_to,
        )
        return run.play(splits, seeds, n_tasks)


@dataclass
class _Run:
    """One evaluation in one folder."""

    policy: Policy | Cluster
    env_id: str
    out: Path
    env_args: dict[str, Any]
    n_envs: int
    agent_errors: AgentErrors
    final: tuple[str, ...]
    action_timeout_s: float | None
    facts: dict[str, Any]
    report_progress: Callable[[Progress], None]
    report_to: Sequence[str]

    def __post_init__(self) -> None:
        self.about = about(self.policy)
        self.n_envs = min(self.n_envs, self.about.n_envs or self.n_envs)

    def play(self, splits: Sequence[str], seeds: Sequence[int], n_tasks: int | None) -> Results:
        # Open all task sets first: a misspelt name has to fail before hours of work, not after.
        task_sets = {split: open_task_set(self.env_id, split, self.env_args) for split in splits}
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        folder = episodes_folder(
            self.out,
            env_id=self.env_id,
            env_args=self.env_args,
            policy=self.about.name,
            policy_provenance=self.about.provenance,
            task_sets={split: tasks.sha256 for split, tasks in task_sets.items()},
        )
        with (
            folder as run,
            TrajectoryStore(run.episodes) as store,
            run.reporting(self.report_to) as trackers,
        ):
            jobs = {
                split: jobs_of(_first(n_tasks, tasks), seeds, self.about.n_samples)
                for split, tasks in task_sets.items()
            }
            # The plan is not part of the claim: seeds and tasks may be added to a run.
            planned = {split: len(own) for split, own in jobs.items()}
            run.state(n_planned=run.record.facts.get("n_planned", {}) | planned, **self.facts)
            done = store.latest()
            n_records = store.n_records() if self.report_to else 0
            reporter = Reporter(trackers, n_records, self.agent_errors)
            results = {
                split: self._play_split(tasks, jobs[split], store, done, reporter)
                for split, tasks in task_sets.items()
            }
            outcome = Results(
                env_id=self.env_id,
                dataset=next(iter(task_sets.values())).dataset,
                policy=self.about.name,
                splits=results,
                provenance={
                    "env_args": self.env_args,
                    "policy": self.about.provenance,
                    "seeds": list(seeds),
                    "n_tasks": n_tasks,
                    "fingerprints": {
                        split: tasks.fingerprint for split, tasks in task_sets.items()
                    },
                    "agent_errors": self.agent_errors,
                    "action_timeout_s": self.action_timeout_s,
                    "n_envs": self.n_envs,
                    "started": started,
                    "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "versions": provenance.versions(),
                    "commit": provenance.commit(),
                },
            )
            outcome.save(self.out / "results.json")
            write_whole(self.out / "report.md", results_page([outcome]).encode())
            reporter.on_results(results)
        return outcome

    def _play_split(
        self,
        tasks: TaskSet,
        jobs: list[Job],
        store: TrajectoryStore,
        done: Mapping[EpisodeKey, Trajectory],
        reporter: Reporter,
    ) -> SplitResult:
        finished, remaining = split_jobs(tasks.split, jobs, done, self.final)
        start = Progress(tasks.split, len(finished), len(jobs), None, list(finished.values()))
        self.report_progress(start)

        ended: dict[EpisodeKey, Trajectory | EpisodeSummary] = dict(finished)

        def on_end(episode: Trajectory | EpisodeSummary) -> None:
            ended[episode.key] = episode
            self.report_progress(Progress(tasks.split, len(ended), len(jobs), episode))
            reporter.on_episode(tasks.split, ended.values(), len(jobs))

        finished |= play_into(
            store,
            self.policy,
            self.env_id,
            remaining,
            split=tasks.split,
            n_envs=self.n_envs,
            env_args=self.env_args,
            on_end=on_end,
            action_timeout_s=self.action_timeout_s,
            known_to_work=played_job(tasks.split, jobs, finished),
        )
        return self._summarise(tasks, finished.values(), len(jobs))

    def _summarise(
        self, tasks: TaskSet, episodes: Collection[Trajectory], n_planned: int
    ) -> SplitResult:
        groups = by_task_and_seed(episodes)
        result = summarise(
            tasks.split,
            tasks.sha256,
            best_of_each(groups),
            n_planned=n_planned // self.about.n_samples,
            agent_errors=self.agent_errors,
        )
        if self.about.n_samples == 1:
            return result
        return replace(
            result,
            tokens=n_tokens(episodes),
            wall_s=sum(episode.wall_s for episode in episodes),
            samples=summarise_samples(groups, self.about.n_samples, agent_errors=self.agent_errors),
        )


def _first(n_tasks: int | None, tasks: TaskSet) -> list[Task]:
    if n_tasks is not None and n_tasks < 1:
        raise ValueError(f"n_tasks must be at least 1, got {n_tasks}")
    return tasks[:n_tasks]
