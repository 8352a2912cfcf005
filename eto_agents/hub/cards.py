"""The cards of pushed runs and checkpoints: Markdown that begins with metadata in YAML.

The metadata are made and checked by the classes of `huggingface_hub`; the texts are ours. Names of
agents and splits are escaped, since anyone can choose them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eto_agents.evaluation.results import Results
from eto_agents.evaluation.statistics import Estimate
from eto_agents.evaluation.tables import HEADINGS, notes, rows
from eto_agents.markdown import Markdown, escape_markdown, markdown_table
from eto_agents.plain_text import one_line
from eto_agents.settings import flattened
from eto_agents.worlds.base import world_of_env
from eto_envs.errors import require

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

EPISODES_SPLIT: Final = "episodes"
"""The only split of a dataset on the hub: its file has the episodes of all task sets."""

_SIZES: Final = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")),
    (math.inf, "n>1M"),
)
_TAGS: Final = ["eto-gym", "llm-agents"]
_FIELDS: Final = (
    (Markdown("`task_id`, `goal`, `split`, `dataset`"), "the task and its task set"),
    (Markdown("`messages`"), "the agent's conversation; empty if it held none"),
    (Markdown("`steps`"), "action, observation, reward, validity and score of each step"),
    (Markdown("`score`, `success`, `status`"), "how the episode ended; the score is in [0, 1]"),
)


@dataclass(frozen=True)
class Model:
    """What the card of a model says about it.

    Attributes:
        method: how it was trained, such as ``"sft"``; empty if unknown.
        settings: the settings of the training.
        base: the hub's name of the model that was trained, if it has one.
        is_adapter: whether it is a LoRA adapter.
        prompts: the prompts that it was trained with.
        results: its evaluations.
    """

    method: str
    settings: Mapping[str, Any]
    base: str | None
    is_adapter: bool
    prompts: str
    results: Sequence[Results]


def dataset_card(
    repo: str, results: Results, *, n_episodes: int, licence: str | None, is_complete: bool
) -> str:
    """The card of a run's episodes.

    Args:
        repo: the repository's name on the hub.
        results: the run's results, as far as it has come.
        n_episodes: number of episodes in the file.
        licence: the identifier of a licence on the hub, if one is stated.
        is_complete: whether all planned episodes have ended.
    """
    hub = require("huggingface_hub", extra="hub")
    world = world_of_env(results.env_id)
    size = next(label for limit, label in _SIZES if n_episodes < limit)
    data = hub.DatasetCardData(
        pretty_name=one_line(f"{results.policy} in {world.title or results.env_id}"),
        license=licence,
        language="en",
        task_categories=["reinforcement-learning", "text-generation"],
        size_categories=[size],
        tags=[*_TAGS, *([world.name] if world.name else [])],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": EPISODES_SPLIT, "path": "episodes.jsonl"}],
            }
        ],
    )
    sections = [
        f"# {escape_markdown(str(data.pretty_name))}",
        f"{n_episodes:,} episodes that {escape_markdown(results.policy)} played in "
        f"{escape_markdown(results.env_id)}, dataset {escape_markdown(results.dataset)}, recorded "
        "with eto-gym.",
        *([] if is_complete else ["The run was not complete when these episodes were pushed."]),
        "## Results",
        *_results([results]),
        "## Episodes",
        "Each line of `episodes.jsonl` is an episode:",
        markdown_table(("field", "content"), _FIELDS),
        _block(
            "python",
            "from datasets import load_dataset",
            "",
            f'episodes = load_dataset("{repo}", split="{EPISODES_SPLIT}")',
        ),
        "With `run.json`, the folder is a run that eto-gym reads:",
        _block(
            "console",
            f"$ hf download {repo} --repo-type dataset --local-dir runs/{_last(repo)}",
            f"$ eto report runs/{_last(repo)} --out runs/report",
        ),
        "## Licence",
        *_licences([results], licence),
    ]
    return _card(hub.DatasetCard, data, sections)


def model_card(repo: str, model: Model, *, licence: str | None) -> str:
    """The card of a checkpoint, with its evaluations also as metadata.

    Args:
        repo: the repository's name on the hub.
        model: what the card says about it.
        licence: the identifier of a licence on the hub, if one is stated.
    """
    hub = require("huggingface_hub", extra="hub")
    worlds = dict.fromkeys(world_of_env(result.env_id).name for result in model.results)
    data = hub.ModelCardData(
        license=licence,
        language="en",
        base_model=model.base,
        library_name="peft" if model.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[*_TAGS, *([model.method] if model.method else []), *filter(None, worlds)],
        model_name=_last(repo),
        eval_results=[entry for result in model.results for entry in _evaluations(result)] or None,
    )
    env_id = model.results[0].env_id if model.results else "ETO-WebShop-v0"
    trained = f", trained with eto-gym by {model.method.upper()}" if model.method else ""
    what = "A LoRA adapter" if model.is_adapter else "A language model"
    sections = [
        f"# {_last(repo)}",
        f"{what} that acts in text worlds{trained}.",
        *([f"It was trained from {escape_markdown(model.base)}."] if model.base else []),
        "## Use",
        _block(
            "console",
            *([f"$ hf download {repo} --local-dir {repo}"] if model.is_adapter else []),
            f"$ eto eval --env {env_id} --model hf:{repo}",
        ),
        "eto-gym uses the chat template and the prompts with which it was trained, as `eto.json` "
        f"names them (prompts: {escape_markdown(model.prompts)}).",
        *(["## Results", *_results(model.results)] if model.results else []),
        *_training(model.settings),
        "## Licence",
        *_licences(model.results, licence),
    ]
    return _card(hub.ModelCard, data, sections)


def _card(kind: Any, data: Any, sections: Sequence[str]) -> str:
    text = "\n\n".join(sections)
    return str(kind(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))  # parsed, and so checked


def _results(results: Sequence[Results]) -> list[str]:
    hashes = [
        (f"{result.env_id}, {split.split}", split.tasks_sha256)
        for result in results
        for split in result.splits.values()
    ]
    return [
        markdown_table(HEADINGS, rows(results)),
        "\n".join(f"- {escape_markdown(note)}" for note in notes(results)),
        markdown_table(("task set", "SHA-256"), list(dict.fromkeys(hashes))),
    ]


def _training(settings: Mapping[str, Any]) -> list[str]:
    values = [(k, str(v)) for k, v in flattened(settings).items() if v not in (None, "", [])]
    return ["## Training", markdown_table(("setting", "value"), values)] if values else []


def _licences(results: Sequence[Results], licence: str | None) -> list[str]:
    """What is known of the terms: those of the repository, and of the worlds' texts."""
    found = [f"The licence is {licence}."] if licence else []
    for result in results:
        if result.dataset == "mini":
            found.append("The tasks of the dataset mini are generated by eto-gym, under MIT.")
        else:
            world = world_of_env(result.env_id)
            found.append(
                world.licence or f"The terms of the texts of {result.env_id} are not known here."
            )
    return [escape_markdown(sentence) for sentence in dict.fromkeys(found)] or ["None is stated."]


def _evaluations(result: Results) -> Iterator[EvalResult]:
    """The results as the hub's metadata has them, one for each split and metric."""
    from huggingface_hub import EvalResult

    for split in result.splits.values():
        metrics = {
            "mean_reward": ("average reward", split.reward),
            "success_rate": ("success", split.success),
        }
        for kind, (name, estimate) in metrics.items():
            if not math.isnan(estimate.mean):
                yield EvalResult(
                    task_type="reinforcement-learning",
                    task_name="reinforcement-learning",
                    dataset_type=one_line(result.env_id),
                    dataset_name=one_line(f"{result.env_id} ({result.dataset})"),
                    dataset_config=one_line(result.dataset),
                    dataset_split=one_line(split.split),
                    dataset_args={"tasks_sha256": split.tasks_sha256, "n_tasks": split.n_tasks},
                    metric_type=kind,
                    metric_name=name,
                    metric_value=round(estimate.mean, 6),
                    metric_args={"agent": one_line(result.policy)} | _interval(estimate),
                )


def _interval(estimate: Estimate) -> dict[str, float]:
    ends = {"low_95": estimate.low, "high_95": estimate.high}
    return {name: round(end, 6) for name, end in ends.items() if end is not None}


def _block(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _last(repo: str) -> str:
    return repo.rpartition("/")[2]
