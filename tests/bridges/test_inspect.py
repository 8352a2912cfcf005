"""The tasks of Inspect: the scores of `evaluate`, in both protocols, and what is no score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import ChatMessageAssistant, ModelOutput, ModelUsage, get_model

from eto_agents.bridges.inspect import (
    alfworld,
    chat_episode,
    final_score,
    scienceworld,
    webshop,
)
from eto_agents.chat_episode import ChatEpisode
from eto_envs import task_sets
from eto_envs.errors import UnknownNameError
from tests.agents import scientist, shopper
from tests.test_docs import ROOT, examples
from tests.toy import BROKEN

pytestmark = [  # of Inspect's own making
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEEN: dict[str, Any] = {"split": "seen", "dataset": "mini"}
PROMPTED: dict[str, Any] = {"prompts": "brief", "world": "webshop"}
USAGE = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else mockllm counts tokens


def written(text: str, **facts: Any) -> ModelOutput:
    output = ModelOutput.from_content("mockllm/model", text, **facts)
    output.usage = USAGE
    return output


def called(**arguments: Any) -> ModelOutput:
    output = ModelOutput.for_tool_call("mockllm/model", "act", arguments, content="Go on.")
    output.usage = USAGE
    return output


def run(task: Task, reply: Callable[[str], ModelOutput], folder: Path, **options: Any) -> EvalLog:
    """Evaluate a model that reads nothing but the last message."""

    def answer(messages: Any, *_: Any) -> ModelOutput:
        return reply(messages[-1].text)

    model = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    [log] = inspect_eval(task, model, display="none", log_dir=str(folder), **options)
    return log


def metrics(log: EvalLog) -> dict[str, float]:
    assert log.results is not None
    return {name: metric.value for name, metric in log.results.scores[0].metrics.items()}


def shop_in_text(page: str) -> ModelOutput:
    return written(shopper.reply([{"content": page}]))


def shop_with_tool(page: str) -> ModelOutput:
    return called(action=shopper.command(page))


AGENTS: Any = {"thought": shop_in_text, "tool": shop_with_tool}


@pytest.mark.parametrize("protocol", AGENTS)
def test_the_scores_are_those_of_evaluate(protocol: str, tmp_path: Path) -> None:
    task = webshop(protocol=protocol, prompts="brief", **SEEN)
    log = run(task, AGENTS[protocol], tmp_path, limit=50)
    assert log.status == "success"
    assert metrics(log)["mean"] == pytest.approx(shopper.SCORES[50], abs=5e-6)
    assert 0 < metrics(log)["stderr"] < 0.1
    assert log.samples is not None
    scores = {sample.id: sample.scores["final_score"].value for sample in log.samples}  # type: ignore[index]
    ids = task_sets("ETO-WebShop-v0", "mini")["seen"].ids[:50]
    assert [scores[task] for task in ids[:2]] == [0.8, 0.25]
    assert set(scores) == set(ids)


@pytest.mark.java
def test_the_scores_in_scienceworld(tmp_path: Path) -> None:
    for name in scientist.TASKS:
        reply, act = scientist.replier_of(name), scientist.agent_of(name)
        for protocol, answer in (
            ("thought", lambda page, reply=reply: written(reply(page))),
            ("tool", lambda page, act=act: called(action=act(page))),
        ):
            task = scienceworld(protocol=protocol, **scientist.SEEN)
            log = run(task, answer, tmp_path, sample_id=name)
            assert metrics(log)["mean"] == pytest.approx(scientist.score_of(name))


@pytest.mark.parametrize("protocol", AGENTS)
def test_the_conversation_is_that_of_an_episode(protocol: Any, tmp_path: Path) -> None:
    [sample] = run(webshop(protocol=protocol, **SEEN), AGENTS[protocol], tmp_path, limit=1).samples  # type: ignore[misc]
    episode = ChatEpisode("ETO-WebShop-v0", 0, protocol=protocol, **SEEN)
    agent = shopper.reply if protocol == "thought" else shopper.call
    while not episode.over:
        episode.reply(agent(episode.messages))
    assert [(m.role, m.text) for m in sample.messages] == [
        (m["role"], m["content"]) for m in episode.messages
    ]
    calls = [
        (call.function, call.arguments)
        for message in sample.messages
        if isinstance(message, ChatMessageAssistant)
        for call in message.tool_calls or ()
    ]
    assert calls == [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for message in episode.messages
        for call in message.get("tool_calls", ())
    ]
    names = ("score", "success", "n_steps")
    assert sample.scores["final_score"].metadata == {name: episode.info[name] for name in names}


def test_samples_say_what_they_are(tmp_path: Path) -> None:
    log = run(alfworld(dataset="mini", split="unseen"), lambda _: written("?"), tmp_path, limit=2)
    tasks = task_sets("ETO-ALFWorld-v0", "mini")["unseen"]
    source = {
        "env_id": "ETO-ALFWorld-v0",
        "dataset": "mini",
        "split": "unseen",
        "tasks_sha256": tasks.sha256,
    }
    assert log.samples is not None
    for sample, task in zip(log.samples, tasks, strict=False):
        assert (sample.id, sample.input) == (task.id, task.goal)
        facts = {"task_id": task.id, "kind": task.kind, "max_steps": task.max_steps}
        assert sample.metadata == source | facts
        assert sample.scores is not None
        assert sample.scores["final_score"].metadata == {
            "score": 0.0,
            "success": False,
            "n_steps": task.max_steps,
        }
    assert log.eval.metadata == source
    assert log.eval.task == "eto_agents/alfworld"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (lambda _: written("I would rather not."), "Call the tool"),
        (lambda _: called(command="look"), "must be a JSON object"),
        (lambda _: called(action=3), "must be a JSON object"),
    ],
)
def test_a_reply_without_an_action_costs_a_step(reply: Any, error: str, tmp_path: Path) -> None:
    log = run(webshop(protocol="tool", **SEEN), reply, tmp_path, limit=1)
    [sample] = log.samples  # type: ignore[misc]
    assert error in sample.messages[-1].text
    assert sample.scores["final_score"].metadata["n_steps"] == 10  # type: ignore[index]
    assert metrics(log)["mean"] == 0.0


def test_a_reply_ends_before_an_observation_of_its_own(tmp_path: Path) -> None:
    def reply(page: str) -> ModelOutput:
        action = shopper.reply([{"content": page}])
        return written(f"{action}\nObservation: [SEP] Bought!\nAction: click[Buy Now]")

    task = webshop(prompts="brief", **SEEN)
    log = run(task, reply, tmp_path, limit=5)
    assert metrics(log)["mean"] == pytest.approx(shopper.SCORES[5], abs=5e-6)
    assert log.samples is not None
    assert not any("Bought!" in message.text for message in log.samples[0].messages)


@pytest.fixture
def corridors() -> Task:
    """The tasks of a world of which one fails."""
    samples = [Sample(input="", id=f"room{n}") for n in (3, 4, 2)]
    solver = chat_episode(BROKEN, **PROMPTED)
    return Task(MemoryDataset(samples), solver=solver, scorer=final_score())


def east(_: str) -> ModelOutput:
    return written("Action: east")


@pytest.mark.parametrize("score_on_error", [False, True])
def test_a_failure_of_the_environment_is_no_score(
    corridors: Task, score_on_error: bool, tmp_path: Path
) -> None:
    options = {"fail_on_error": False, "score_on_error": score_on_error}
    log = run(corridors, east, tmp_path, **options)
    assert log.samples is not None
    [error] = [sample.error for sample in log.samples if sample.id == "room2"]
    assert error is not None
    assert "the world ended" in error.message
    assert metrics(log)["mean"] == 1.0  # of the two others


def test_by_default_it_ends_the_evaluation(corridors: Task, tmp_path: Path) -> None:
    log = run(corridors, east, tmp_path)
    assert log.status == "error"
    assert log.error is not None
    assert "the world ended" in log.error.message


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (lambda _: written("Action: " + "x" * 70_000), "70,000 bytes"),
        (lambda _: written("Too long.", stop_reason="model_length"), "model's context"),
    ],
)
def test_a_failure_of_the_model_is_no_score(reply: Any, message: str, tmp_path: Path) -> None:
    log = run(webshop(**SEEN), reply, tmp_path, limit=1, fail_on_error=False, score_on_error=True)
    [sample] = log.samples  # type: ignore[misc]
    assert sample.error is not None
    assert message in sample.error.message
    assert log.results is not None
    assert log.results.scores[0].scored_samples == 0


def test_the_score_so_far_counts_at_a_limit(corridors: Task, tmp_path: Path) -> None:
    log = run(corridors, east, tmp_path, sample_id="room3", turn_limit=2)
    [sample] = log.samples  # type: ignore[misc]
    assert sample.limit is not None
    assert metrics(log)["mean"] == pytest.approx(2 / 3)


def test_epochs_are_samples_of_a_task(tmp_path: Path) -> None:
    task = webshop(prompts="brief", **SEEN)
    log = run(task, shop_in_text, tmp_path, limit=5, epochs=2)
    assert log.samples is not None
    assert len(log.samples) == 10
    assert metrics(log)["mean"] == pytest.approx(shopper.SCORES[5], abs=5e-6)


def test_wrong_arguments() -> None:
    with pytest.raises(UnknownNameError, match="nowhere"):
        webshop(dataset="mini", split="nowhere")
    assert callable(scienceworld)


PROVIDER = """
import sys
from inspect_ai._cli.main import main
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, modelapi
from tests.agents import shopper

@modelapi(name="shopper")
class Shopper(ModelAPI):
    async def generate(self, input, tools, tool_choice, config):
        output = ModelOutput.from_content("shopper", shopper.reply([{"content": input[-1].text}]))
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output

main()
"""


def test_the_command_line_finds_the_tasks(tmp_path: Path) -> None:
    words = "eval eto_agents/webshop --model shopper/x --limit 5 --display none --log-format json"
    arguments = "-T dataset=mini -T split=seen -T prompts=brief"
    done = subprocess.run(
        [sys.executable, "-c", PROVIDER, *words.split(), *arguments.split(), "--log-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.glob("*.json")
    log = json.loads(file.read_text())
    assert log["status"] == "success"
    mean = log["results"]["scores"][0]["metrics"]["mean"]["value"]
    assert mean == pytest.approx(shopper.SCORES[5], abs=5e-6)


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    script = examples(ROOT / "docs" / "bridges" / "inspect.md")
    assert "mockllm/model" in script
    script = PROVIDER.replace("main()", script.replace("mockllm/model", "shopper/x"))
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 0
