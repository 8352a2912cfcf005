"""`eto serve`: people, or agents of other projects, play."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from eto_agents.cli.evaluation import KeyValues, at_least_one, env_arguments
from eto_agents.console import show
from eto_envs.errors import EtoError, UnknownNameError, require

if TYPE_CHECKING:
    from eto_agents.trajectory import Trajectory
    from eto_envs.tasks import TaskSet
    from eto_envs.webshop.engine.engine import WebShopEngine
    from eto_envs.webshop.site.sessions import Visit

ENV_ID, WORLD = "ETO-WebShop-v0", "webshop"


def webshop(  # noqa: PLR0913 (the flags of the command)
    dataset: str = "auto",
    split: str = "train",
    goals: Literal["human", "synthetic"] = "human",
    host: str = "127.0.0.1",
    host_names: tuple[str, ...] = (),
    port: int = 8000,
    out: Path | None = None,
    max_steps: int | None = None,
    show_attrs: bool = False,
    pictures: bool = False,
) -> None:
    """Play WebShop in a browser: pick a task, shop, and see the score and what was missed.

    Finished sessions are appended to episodes.jsonl in the run's folder, with the policy "human".

    Rerun the command to resume open sessions.

    For example:
        eto serve webshop --dataset mini --split seen --port 8000

    Args:
        dataset: Dataset: mini, small, full, or a folder that holds the official files. By default
            (auto) the official data if downloaded, else mini.
        split: Split whose tasks are offered.
        goals: Use instructions written by people, or synthetic ones made from templates.
        host: Address to listen on; any other than this machine's own admits other machines.
        host_names: Names under which browsers may reach the site, such as shop.example behind a
            proxy, or * for any. If --host admits other machines, addresses and this machine's name
            are accepted without it.
        port: Port to listen on; 0 selects a free one.
        out: Folder of the run; by default runs/webshop-human.
        max_steps: Step limit of an episode; by default the protocol's.
        show_attrs: Give product pages a tab with the product's attributes.
        pictures: Show the products' pictures, which the browser loads from other servers.
    """
    _check(port, max_steps)
    from eto_agents.runs import episodes_folder
    from eto_agents.store import TrajectoryStore
    from eto_envs.webshop.data.datasets import find_bundle
    from eto_envs.webshop.data.shop import open_shop
    from eto_envs.webshop.engine.engine import WebShopEngine
    from eto_envs.webshop.env import task_set
    from eto_envs.webshop.site.app import make_app
    from eto_envs.webshop.site.sessions import Visits
    from eto_envs.webshop.site.views import SiteOptions

    shop = open_shop(find_bundle(dataset), goals=goals)
    engine = WebShopEngine(shop, show_attrs=show_attrs)
    tasks = task_set(shop, split)
    folder = out or Path("runs/webshop-human")
    env_args = {"dataset": shop.dataset, "goals": goals, "show_attrs": show_attrs}
    run = episodes_folder(
        folder,
        env_id=ENV_ID,
        env_args=env_args | {"max_steps": max_steps},
        policy="human",
        policy_provenance={},
        task_sets={tasks.split: tasks.sha256},
        may_grow=False,
    )
    with run, TrajectoryStore(run.episodes) as store:
        visits = Visits(
            engine,
            tasks,
            max_steps=max_steps,
            finished=[(episode.task_id, episode.seed) for episode in store.read()],
            on_end=lambda visit: store.append(trajectory_of(visit, engine, tasks)),
            journal=folder / "sessions.jsonl",
        )
        try:
            app = make_app(
                visits, SiteOptions(play=True, pictures=pictures), hosts=_hosts(host, host_names)
            )
            _listen_and_serve(app, host, port, folder)
        finally:
            visits.close()


def _check(port: int, max_steps: int | None) -> None:
    for package in ("starlette", "uvicorn", "jinja2"):
        require(package, extra="browser")
    if not 0 <= port <= 65535:
        raise UnknownNameError("port", port, (), "Ports go from 0 to 65535.")
    if max_steps is not None and max_steps < 1:
        raise UnknownNameError("step limit", max_steps, (), "Give a positive number.")


def _hosts(host: str, host_names: tuple[str, ...]) -> tuple[str, ...]:
    """The host names that requests may have; warns if other machines can send them."""
    from eto_envs.webshop.site.app import ANY_ADDRESS, LOCAL_HOSTS, host_name

    stated = []
    for text in host_names:
        if not (text == "*" or host_name(text)):
            raise UnknownNameError("host name", text, (), "Give names such as shop.example.")
        stated.append(text if text == "*" else host_name(text))
    if _is_loopback(host):
        return (*LOCAL_HOSTS, *stated)
    names = [socket.gethostname().lower(), *stated]
    if not _is_address(host):
        names.append(host.lower())
    warnings.warn(
        f"listening on {host}: anyone who can reach the port can play, without encryption. "
        f"Requests must name the site by its address or as {', '.join(dict.fromkeys(names))} "
        "(--host-names adds others), because any other web page could otherwise use it through a "
        "name of its own",
        UserWarning,
        stacklevel=2,
    )
    return (*LOCAL_HOSTS, ANY_ADDRESS, *names)


def _listen_and_serve(app: Any, host: str, port: int, folder: Path) -> None:
    from eto_envs.webshop.site.server import listen, serve

    listener = listen(host, port)
    try:
        name = f"[{host}]" if ":" in host else host
        show(f"http://{name}:{listener.getsockname()[1]}/  (Ctrl-C stops)")
        show(f"sessions are stored in {folder}")
        serve(app, listener)
    except KeyboardInterrupt:
        show("stopped; rerun the command to resume")
    finally:
        listener.close()


def trajectory_of(visit: Visit, engine: WebShopEngine, tasks: TaskSet) -> Trajectory:
    """Convert a finished visit; its seed is its number among the visits of its task."""
    from eto_agents.trajectory import Step, Trajectory

    initial_observation = engine.text(engine.start(int(visit.task.id)))
    score, before_s = 0.0, visit.started_s
    steps = []
    for taken in visit.steps:
        score += taken.reward
        step = Step(
            action=taken.action,
            observation=taken.observation,
            reward=taken.reward,
            task_reward=taken.reward,
            reward_terms={},
            score=score,
            is_valid=taken.is_valid,
            latency_s=taken.time_s - before_s,
        )
        before_s = taken.time_s
        steps.append(step)
    return Trajectory(
        env_id=ENV_ID,
        world=WORLD,
        dataset=tasks.dataset,
        split=tasks.split,
        tasks_sha256=tasks.sha256,
        task_id=visit.task.id,
        kind=visit.task.kind,
        goal=visit.task.goal,
        seed=visit.number,
        policy="human",
        initial_observation=initial_observation,
        messages=[],
        steps=steps,
        status="completed" if visit.end == "bought" else "truncated",
        score=score,
        success=score >= 1.0,
        wall_s=before_s - visit.started_s,
    )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback if _is_address(host) else host == "localhost"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def mcp(  # noqa: PLR0913 (the flags of the command)
    env: str,
    dataset: str | None = None,
    split: str = "seen",
    n_tasks: int | None = None,
    seeds: tuple[int, ...] = (0,),
    http: int | None = None,
    out: Path | None = None,
    agent: str = "mcp",
    prompts: str = "own",
    max_steps: int | None = None,
    env_args: KeyValues = (),
    max_episodes: int = 256,
    idle_minutes: float = 30.0,
) -> None:
    """Let the agents of any MCP client play the tasks of a split.

    The client gets two tools, reset and act, and never a score; eto report reads the episodes.

    Rerun the command to resume.

    For example:
        eto serve mcp --env ETO-WebShop-v0 --dataset mini --http 8000

    Args:
        env: Environment id, such as ETO-WebShop-v0.
        dataset: Dataset of the environment: mini, an official name such as full, or a folder that
            holds the official files. By default the official data if downloaded, else mini.
        split: Split whose tasks are played.
        n_tasks: Play only the first N tasks of the split. By default all.
        seeds: Seeds; every task is played once for each.
        http: Port on which to serve HTTP, for this machine only; 0 selects a free one. By default
            the server uses standard input and output, and ends when its client does.
        out: Folder of the run; by default runs/ENV-AGENT.
        agent: Name of the agent in reports.
        prompts: Prompts whose instruction the agent gets: own, brief, or a TOML file.
        max_steps: Step limit of an episode; by default the protocol's.
        env_args: Further arguments for the environment; values are JSON or plain text.
        max_episodes: Maximum number of episodes played at once.
        idle_minutes: Minutes without an action after which an episode is cancelled.
    """
    require("mcp", extra="mcp")
    at_least_one(n_tasks=n_tasks, max_episodes=max_episodes)
    _check_minutes(idle_minutes)
    arguments = env_arguments(env, env_args, dataset=dataset, max_steps=max_steps)
    from eto_agents.bridges.mcp import open_episodes, serve
    from eto_envs.webshop.site.server import listen

    folder = out or Path("runs") / f"{env}-{agent}"
    with contextlib.ExitStack() as stack:
        episodes = stack.enter_context(
            open_episodes(
                env,
                out=folder,
                split=split,
                n_tasks=n_tasks,
                seeds=seeds,
                prompts=prompts,
                agent=agent,
                max_episodes=max_episodes,
                **arguments,
            )
        )
        listener = None
        if http is not None:  # otherwise standard output belongs to the client
            listener = stack.enter_context(contextlib.closing(listen("127.0.0.1", http)))
            show(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp  (Ctrl-C stops)")
            show(f"episodes are stored in {folder}")
        with contextlib.suppress(KeyboardInterrupt):
            serve(env, episodes, idle_s=60 * idle_minutes, listener=listener)
        if listener is not None:
            show("stopped; rerun the command to resume")


def openenv(
    env: str,
    dataset: str | None = None,
    max_steps: int | None = None,
    env_args: KeyValues = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    max_sessions: int = 64,
    idle_minutes: float = 30.0,
) -> None:
    """Serve an environment to clients of OpenEnv, an episode to each WebSocket.

    Clients select the split and the task. Nothing is stored.

    For example:
        eto serve openenv --env ETO-ALFWorld-v0 --dataset mini --port 8000

    Args:
        env: Environment id, such as ETO-WebShop-v0.
        dataset: Dataset of the environment: mini, an official name such as full, or a folder that
            holds the official files. By default the official data if downloaded, else mini.
        max_steps: Step limit of an episode; by default the protocol's.
        env_args: Further arguments for the environment; values are JSON or plain text.
        host: Address to listen on; any other than this machine's own admits other machines.
        port: Port to listen on; 0 selects a free one.
        max_sessions: Maximum number of clients at once; others are refused.
        idle_minutes: Minutes without a message after which a client's session ends.
    """
    require("openenv", extra="openenv")
    at_least_one(max_sessions=max_sessions)
    _check_minutes(idle_minutes)
    arguments = env_arguments(env, env_args, dataset=dataset, max_steps=max_steps)
    from eto_agents.bridges.openenv import create_server, serve
    from eto_envs.webshop.site.server import listen

    app = create_server(env, max_sessions=max_sessions, idle_minutes=idle_minutes, **arguments)
    if not _is_loopback(host):
        warnings.warn(
            f"listening on {host}: anyone who can reach the port can play, without encryption",
            UserWarning,
            stacklevel=1,
        )
    with contextlib.closing(listen(host, port)) as listener:
        name = f"[{host}]" if ":" in host else host
        show(f"http://{name}:{listener.getsockname()[1]}  (Ctrl-C stops)")
        with contextlib.suppress(KeyboardInterrupt):
            serve(app, listener)
        show("stopped")


def _check_minutes(idle_minutes: float) -> None:
    if not idle_minutes > 0:
        raise EtoError(f"--idle-minutes must be more than 0, got {idle_minutes}")


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "webshop": webshop,
    "mcp": mcp,
    "openenv": openenv,
}
"""The commands after ``eto serve``."""
