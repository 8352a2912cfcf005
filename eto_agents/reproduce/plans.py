"""What a tier would do, before it does it: stages, inputs, tokens, time.

The arithmetic is the usual one: 6 N floating-point operations for a token that is trained on
(forward 2 N, backward 4 N), 2 N for one that is only read or written, N being the parameters. A
trajectory has ``head + turns * (turn + observation)`` tokens; while an agent plays each of them is
gone through once, as keys and values are kept. Seconds are operations by the operations a second
that the tier's ``[costs]`` assume, which is the weakest part of it: set ``costs.train_flops_per_s``
and ``costs.play_flops_per_s`` to what was measured. Attention, loading and the worlds themselves
are left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from eto_agents.reproduce.runs import track_folder
from eto_agents.reproduce.settings import Told
from eto_agents.reproduce.tiers import METHODS, Costs, Recipe, Tier


class Planned(NamedTuple):
    """A stage that a tier would run.

    Attributes:
        stage: its name.
        folder: where.
        inputs: what it reads.
        trained_tokens: tokens that are trained on, every epoch counted.
        played_tokens: tokens that are read and written without training.
        seconds: by the tier's assumptions.
    """

    stage: str
    folder: str
    inputs: str
    trained_tokens: float
    played_tokens: float
    seconds: float


_Make = Callable[[str, str, str, float, float], Planned]


def plan(tier: Tier, out: Path) -> dict[str, list[Planned]]:
    """The stages of every track, by the track's name."""
    return {
        f"{world} seed {seed}": list(_stages(tier, recipe, track_folder(out, world, seed)))
        for world, recipe in tier.recipes.items()
        for seed in tier.seeds
    }


def assumptions(costs: Costs) -> str:
    """What the figures rest on, in words."""
    return (
        f"N = {costs.n_parameters:.3g} parameters; "
        f"{trajectory_tokens(costs):,.0f} tokens a trajectory "
        f"({costs.head_tokens:g} + {costs.turns:g} x ({costs.turn_tokens:g} + "
        f"{costs.observation_tokens:g})); training 6 N a token at {costs.train_flops_per_s:.3g} "
        f"FLOP/s, playing 2 N at {costs.play_flops_per_s:.3g} FLOP/s, on each of "
        f"{costs.n_devices} device(s)"
    )


def markdown(tier: Tier, out: Path) -> str:
    """The plan as text."""
    parts = [f"# Tier {tier.name}", tier.about]
    total_s = 0.0
    for track, stages in plan(tier, out).items():
        costs = tier.recipes[track.partition(" ")[0]].costs
        lines = [["stage", "folder", "reads", "trained tokens", "played tokens", "time"]]
        lines.append(["---"] * 6)
        for stage in stages:
            tokens = [_count(stage.trained_tokens), _count(stage.played_tokens)]
            names = [stage.stage, stage.folder, stage.inputs]
            lines.append([*names, *tokens, duration(stage.seconds)])
        own_s = math.fsum(stage.seconds for stage in stages)
        total_s += own_s
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts += [f"## {track}: about {duration(own_s)}", assumptions(costs) + ".", table]
    at_once = f", {tier.n_processes} tracks at once" if tier.n_processes > 1 else ""
    spread = total_s / tier.n_processes
    parts.append(f"In all about {duration(spread)}{at_once}, by these assumptions alone.")
    if tier.launch:
        parts.append("## By hand, where several devices or a server shall do a stage")
        parts.append(f"`eto reproduce --out {out}` finds these stages done in their folders.")
        for world in tier.recipes:
            for seed in tier.seeds:
                parts += launch_lines(tier, world, seed, out)
    return "\n\n".join(part for part in parts if part)


def launch_lines(tier: Tier, world: str, seed: int, out: Path) -> list[str]:
    """The tier's command lines for one track, with its folders and settings in them."""
    recipe = tier.recipes[world]
    track = Told(recipe, seed, track_folder(out, world, seed))
    base = recipe.model.name
    first = (seed * 1000 + 1) * recipe.eto.explore.samples
    loop = track.eto_settings(track.sft_checkpoint, track.folder / "eto")
    words = {
        "SFT_FLAGS": " ".join(flags_of(track.sft_settings(track.folder / "sft", base))),
        "ETO_FLAGS": " ".join(flags_of(loop)),
        "SFT_CHECKPOINT": track.sft_checkpoint,
        "EXPLORE": str(track.folder / "eto" / "iteration-1" / "explore"),
        "ENV": f"{recipe.world.env} --dataset {recipe.world.dataset}",
        "SEEDS": " ".join(str(first + n) for n in range(recipe.eto.explore.samples)),
    }
    lines = []
    for stage, line in tier.launch.items():
        for word, text in words.items():
            line = line.replace(f"{{{word}}}", text)
        lines.append(f"{world} seed {seed}, {stage}:\n    {line.strip()}")
    return lines


def flags_of(settings: Any, prefix: str = "") -> list[str]:
    """The flags that mean these settings, of a command that takes a settings' class whole."""
    flags = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        name = f"--{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            flags += flags_of(value, f"{prefix}{field.name}.")
        elif value is None or value == _default_of(field):
            continue
        elif isinstance(value, bool) and isinstance(_default_of(field), bool):
            flags.append(name if value else name.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            flags += [name, *map(str, value)]
        else:
            flags += [name, str(value)]
    return flags


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if isinstance(field.default_factory, dataclasses._MISSING_TYPE):
        return field.default
    return field.default_factory()


def trajectory_tokens(costs: Costs) -> float:
    """Tokens of an average trajectory."""
    return costs.head_tokens + costs.turns * (costs.turn_tokens + costs.observation_tokens)


def duration(seconds: float) -> str:
    """Such as ``12 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _stages(tier: Tier, recipe: Recipe, folder: Path) -> Iterator[Planned]:
    costs = recipe.costs
    tokens = trajectory_tokens(costs)
    n_tasks = min(costs.n_train, recipe.expert.n_tasks or costs.n_train)
    n_learnt = n_tasks - recipe.eto.dev_tasks
    n_expert = n_learnt * recipe.expert.samples
    n_explored = min(n_learnt, recipe.eto.explore.max_tasks or n_learnt)
    n_evaluated = min(costs.n_evaluated, recipe.evaluation.n_tasks or costs.n_evaluated)
    base = f"{folder}/base" if recipe.model.is_tiny else recipe.model.name
    cloned = f"{folder}/sft"
    data = f"{folder}/demonstrations"

    def stage(name: str, place: str, reads: str, trained: float, played: float) -> Planned:
        flops_per_s = (costs.train_flops_per_s, costs.play_flops_per_s)
        operations = (6 * costs.n_parameters * trained, 2 * costs.n_parameters * played)
        pairs = zip(operations, flops_per_s, strict=True)
        seconds = math.fsum(o / per_s for o, per_s in pairs) / costs.n_devices
        return Planned(name, f"{folder}/{place}", reads, trained, played, seconds)

    asked = set(tier.methods)
    yield stage("expert", "demonstrations", f"{recipe.world.env} {recipe.world.dataset}", 0, 0)
    if "base" in asked:
        yield stage(METHODS["base"], "runs/base", base, 0, n_evaluated * tokens)
    trained = n_expert * tokens * recipe.sft.epochs
    yield stage("SFT", "sft", f"{base}, {data}", trained, n_evaluated * tokens)
    if "best-of-n" in asked:
        played = n_evaluated * tokens * recipe.best_of_n.n
        yield stage(METHODS["best-of-n"], "runs/best-of-n", cloned, 0, played)
    if "rft" in asked:
        yield _rft(recipe, stage, f"{base}, {cloned}, {data}", n_tasks, n_expert, n_evaluated)
    if "ppo" in asked:
        episodes = recipe.ppo.n_updates * recipe.ppo.n_episodes
        # Played, and read again by the policy, the reference and the value head.
        played = (3 * episodes + n_evaluated) * tokens
        yield stage("PPO", "ppo", cloned, episodes * recipe.ppo.n_epochs * tokens, played)
    if asked & {"eto", "sft-more"}:
        yield from _eto(recipe, stage, f"{cloned}, {data}", n_explored, n_evaluated)
    if "sft-more" in asked:
        trained = _dpo_tokens(recipe, n_explored) * recipe.eto.iterations
        reads = f"{cloned}, {data}, {folder}/eto"
        yield stage(METHODS["sft-more"], "sft-more", reads, trained, n_evaluated * tokens)


def _rft(
    recipe: Recipe, stage: _Make, reads: str, n_tasks: int, n_expert: int, n_evaluated: int
) -> Planned:
    tokens = trajectory_tokens(recipe.costs)
    share = min(1.0, (recipe.rft.max_tasks or n_tasks) / n_tasks)
    n_sampled = n_tasks * share * recipe.rft.n_samples
    # Half of what is sampled is supposed to succeed and to be new.
    trained = (n_expert * share + 0.5 * n_sampled) * tokens * recipe.rft.epochs
    return stage("RFT", "rft", reads, trained, (n_sampled + n_evaluated) * tokens)


def _eto(
    recipe: Recipe, stage: _Make, reads: str, n_explored: int, n_evaluated: int
) -> Iterator[Planned]:
    tokens = trajectory_tokens(recipe.costs)
    for number in range(1, recipe.eto.iterations + 1):
        trained = _dpo_tokens(recipe, n_explored)
        reference = trained / recipe.eto.dpo.n_epochs  # log-probabilities, once
        played = n_explored * recipe.eto.explore.samples + recipe.eto.dev_tasks + n_evaluated
        place = f"eto/iteration-{number}"
        yield stage(f"ETO {number}", place, reads, trained, reference + played * tokens)
        reads = f"{place}, {reads.partition(', ')[2]}"


def _dpo_tokens(recipe: Recipe, n_explored: int) -> float:
    """Tokens of both sides of an iteration's pairs, every epoch."""
    n_pairs = n_explored * recipe.costs.pairs_per_task
    return 2 * n_pairs * trajectory_tokens(recipe.costs) * recipe.eto.dpo.n_epochs


def _count(value: float) -> str:
    if not value:
        return "–"
    power = min(int(math.log10(max(value, 1)) // 3), 3)
    return f"{value / 1000**power:.3g}{('', ' k', ' M', ' G')[power]}"
