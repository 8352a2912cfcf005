"""The client of OpenAI-compatible servers, against a server in a thread."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import eto_agents.models.openai as openai_module
from eto_agents.models import ChatModel, Completion, Sampling, load_model
from eto_agents.models.openai import MAX_TEXT_CHARS, OpenAIModel
from eto_agents.models.recordings import Recordings, request_key
from eto_agents.trajectory import Message
from eto_envs.errors import CorruptDataError

if importlib.util.find_spec("openai") is None:
    pytest.skip("openai is not installed", allow_module_level=True)

Answer = tuple[int, Any, dict[str, str]]


class Server:
    """Responds to each request with `answer` of its body and its number."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any], int], Answer] = lambda body, n: reply("hello")
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times_s: list[float] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.serve(self)

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            self.keys.append(handler.headers["Authorization"])
            self.times_s.append(time.monotonic())
            n = len(self.bodies)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        status, content, headers = self.answer(body, n)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        with self._lock:
            self._now -= 1
        handler.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def reply(text: str | None, **choice: Any) -> Answer:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"} | choice
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    record = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    return 200, record | {"choices": [choice], "usage": usage}, {}


def chat(text: str = "hi") -> list[Message]:
    return [{"role": "user", "content": text}]


def connect(server: Server, **arguments: Any) -> OpenAIModel:
    return OpenAIModel("m", base_url=server.url, **({"backoff_s": 0.01} | arguments))


def one(model: OpenAIModel, text: str = "hi", **sampling: Any) -> Completion:
    [completion] = model.generate([chat(text)], Sampling(**sampling))
    return completion


def test_a_request_and_its_reply(server: Server) -> None:
    model = load_model("openai:m", base_url=server.url, api_key="secret")
    assert isinstance(model, ChatModel)
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=7, stop=("END",))
    [completion] = model.generate([chat()], sampling, seeds=[2**40 + 3])
    assert completion.text == "hello"
    assert completion.usage == {"prompt_tokens": 100.0, "completion_tokens": 10.0}
    assert (completion.finish_reason, completion.error) == ("stop", "")
    assert server.bodies == [
        {
            "model": "m",
            "messages": chat(),
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
            "stop": ["END"],
            "seed": 3,
        }
    ]
    assert server.keys == ["Bearer secret"]
    assert "secret" not in json.dumps(model.provenance)  # type: ignore[attr-defined]


def test_greedy_requests_have_no_seed_and_fields_can_be_renamed_or_omitted(server: Server) -> None:
    model = connect(server, token_limit="max_completion_tokens", omit=["stop", "temperature"])
    model.generate([chat()], Sampling(max_tokens=7), seeds=[5])
    assert server.bodies == [{"model": "m", "messages": chat(), "max_completion_tokens": 7}]


def test_a_batch_preserves_order_and_respects_the_concurrency(server: Server) -> None:
    def answer(body: dict[str, Any], n: int) -> Answer:
        time.sleep(0.02)
        return reply(body["messages"][0]["content"].upper())

    server.answer = answer
    model = connect(server, concurrency=4)
    texts = [f"text {i}" for i in range(12)]
    completions = model.generate([chat(text) for text in texts], Sampling())
    assert [completion.text for completion in completions] == [text.upper() for text in texts]
    assert 2 <= server.most_at_once <= 4
    assert model.totals["requests"] == 12
    assert model.generate([], Sampling()) == []


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_transient_errors_are_retried(server: Server, status: int) -> None:
    server.answer = lambda body, n: (status, {}, {}) if n < 3 else reply("at last")
    assert one(connect(server)).text == "at last"
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_permanent_errors_are_not_retried(server: Server, status: int) -> None:
    server.answer = lambda body, n: (status, {"error": {"message": "context too long"}}, {})
    completion = one(connect(server))
    assert "context too long" in completion.error
    assert "attempt 1" in completion.error
    assert len(server.bodies) == 1


def test_retries_are_limited(server: Server) -> None:
    server.answer = lambda body, n: (503, {}, {})
    model = connect(server, n_retries=2)
    assert "attempt 3" in one(model).error
    assert model.totals == {"requests": 1.0, "errors": 1.0}


def test_backoff_is_exponential_unless_the_server_names_a_pause(server: Server) -> None:
    server.answer = lambda body, n: (503, {}, {}) if n < 4 else reply("x")
    one(connect(server, backoff_s=0.05))
    first, second, third = (b - a for a, b in zip(server.times_s, server.times_s[1:], strict=False))
    assert 0.05 <= first < second < third
    server.times_s.clear()
    server.answer = lambda body, n: (429, {}, {"Retry-After": "0.2"}) if n < 6 else reply("x")
    one(connect(server, backoff_s=0.0))
    assert server.times_s[1] - server.times_s[0] >= 0.2


def test_requests_are_spaced(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)  # a clock that stands still
    monkeypatch.setattr(time, "sleep", slept_s.append)
    pacer = openai_module._Pacer(0.05)
    for _ in range(4):
        pacer.wait()
    monkeypatch.undo()
    assert slept_s == pytest.approx([0.0, 0.05, 0.1, 0.15])

    waited: list[float] = []
    model = connect(server, requests_per_minute=6_000)
    monkeypatch.setattr(
        openai_module._Pacer, "wait", lambda pacer: waited.append(pacer._interval_s)
    )
    model.generate([chat(str(i)) for i in range(4)], Sampling())
    assert waited == [0.01] * 4


def test_an_unreachable_server() -> None:
    model = OpenAIModel("m", base_url="http://user:word@127.0.0.1:9/v1", backoff_s=0, n_retries=1)
    error = one(model).error
    assert "APIConnectionError" in error
    assert "(127.0.0.1:9, attempt 2)" in error
    assert "word" not in error


def test_a_server_that_does_not_respond(server: Server) -> None:
    def answer(body: dict[str, Any], n: int) -> Answer:
        time.sleep(0.3)
        return reply("late")

    server.answer = answer
    assert "APITimeoutError" in one(connect(server, timeout_s=0.05, n_retries=0)).error


MALFORMED: list[tuple[str, Any]] = [
    ("no JSON", b"<html>it works</html>"),
    ("half of it", b'{"choices": ['),
    ("nothing", b""),
    ("another object", {}),
    ("no choices", reply("x")[1] | {"choices": []}),
    ("null choices", reply("x")[1] | {"choices": None}),
    ("a list", []),
    ("no message", reply("x", message=None)[1]),
    ("no text", reply(None)[1]),
    ("a refusal", reply("x", message={"role": "assistant", "content": None, "refusal": "No."})[1]),
    ("too much", reply("x" * (MAX_TEXT_CHARS + 1))[1]),
    ("odd counts", reply("x")[1] | {"usage": {"prompt_tokens": "many"}}),
    ("odd usage", reply("x")[1] | {"usage": [1]}),
    ("odd log-probs", reply("x", logprobs={"content": [1]})[1]),
    ("a number", reply("x", message={"role": "assistant", "content": 3})[1]),
]


@pytest.mark.parametrize("content", [c for _, c in MALFORMED], ids=[name for name, _ in MALFORMED])
def test_malformed_replies_are_errors(server: Server, content: Any) -> None:
    server.answer = lambda body, n: (200, content, {})
    completion = one(connect(server, n_retries=0))
    assert completion.error
    assert completion.text == ""


def test_ten_megabytes_end_one_request_only(server: Server) -> None:
    def answer(body: dict[str, Any], n: int) -> Answer:
        return reply("x" * 10_000_000 if body["messages"][0]["content"] == "big" else "ok")

    server.answer = answer
    big, small = connect(server).generate([chat("big"), chat("small")], Sampling())
    assert "10000000 characters" in big.error
    assert small.text == "ok"


def test_an_empty_text_is_a_reply(server: Server) -> None:
    server.answer = lambda body, n: reply("", finish_reason="length")
    assert one(connect(server)) == Completion(
        "", usage={"prompt_tokens": 100.0, "completion_tokens": 10.0}, finish_reason="length"
    )


def test_costs_and_missing_counts(server: Server) -> None:
    model = connect(
        server, usd_per_million_prompt_tokens=2.0, usd_per_million_completion_tokens=30.0
    )
    assert one(model).usage["cost_usd"] == pytest.approx(0.0005)
    one(model)
    assert model.totals["cost_usd"] == pytest.approx(0.001)
    assert model.totals["prompt_tokens"] == 200
    status, record, headers = reply("x")
    server.answer = lambda body, n: (status, record | {"usage": None}, headers)
    assert one(model).usage == {"unmetered_requests": 1.0}


def test_token_ids_and_log_probs(server: Server) -> None:
    tokens = [
        {"token": t, "logprob": p, "bytes": None, "top_logprobs": []}
        for t, p in (("a", -0.5), ("b", -1.5))
    ]
    server.answer = lambda body, n: reply("ab", logprobs={"content": tokens}, token_ids=[7, 8])
    completion = one(connect(server, log_probs=True, extra_body={"return_token_ids": True}))
    assert completion.log_probs == [-0.5, -1.5]
    assert completion.token_ids == [7, 8]
    assert server.bodies[0]["logprobs"] is True
    assert server.bodies[0]["return_token_ids"] is True


def test_a_run_is_repeated_offline(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, n: reply(f"{body['messages'][0]['content']} {n}")
    path = tmp_path / "replies" / "m.jsonl"
    model = connect(server, recordings=path, concurrency=1)
    chats = [chat("a"), chat("b")]
    made = model.generate(chats, Sampling())
    assert [c.text for c in made] == ["a 1", "b 2"]
    again = OpenAIModel("m", recordings=path, offline=True)
    replayed = again.generate(chats, Sampling())
    assert [c.text for c in replayed] == ["a 1", "b 2"]
    assert replayed[0].usage == {**made[0].usage, "replayed_requests": 1.0}
    [missing] = again.generate([chat("c")], Sampling())
    assert "is not recorded" in missing.error
    [other] = again.generate([chat("a")], Sampling(max_tokens=3))
    assert "is not recorded" in other.error
    assert connect(server, recordings=path).generate(chats, Sampling())[1].text == "b 2"
    assert len(server.bodies) == 2


def test_seeds_distinguish_recorded_requests(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, n: reply(str(body["seed"]))
    model = connect(server, recordings=tmp_path / "m.jsonl")
    completions = model.generate([chat(), chat()], Sampling(temperature=1.0), seeds=[1, 2])
    assert [c.text for c in completions] == ["1", "2"]


def test_errors_are_not_recorded(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, n: (400, {}, {}) if n == 1 else reply("fine")
    model = connect(server, recordings=tmp_path / "m.jsonl")
    assert one(model).error
    assert one(model).text == "fine"
    assert len(Recordings(tmp_path / "m.jsonl")) == 1


def test_an_interrupted_recording_is_resumed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    model = connect(server, recordings=path)
    model.generate([chat("a"), chat("b")], Sampling())
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert len(Recordings(path)) == 1
    assert whole.startswith(path.read_bytes())
    assert len(path.read_bytes().splitlines()) == 1
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(CorruptDataError, match=r"m\.jsonl:1 is not a recorded reply"):
        Recordings(path)


def test_the_first_recorded_reply_stays(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path / "m.jsonl")
    key = request_key({"a": 1, "b": 2})
    assert key == request_key({"b": 2, "a": 1})
    assert recordings.put(key, {"text": "one"}) == {"text": "one"}
    assert recordings.put(key, {"text": "two"}) == {"text": "one"}
    assert Recordings(tmp_path / "m.jsonl").get(key) == {"text": "one"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_retries": -1},
        {"concurrency": 0},
        {"timeout_s": 0},
        {"requests_per_minute": 0},
        {"offline": True},
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        OpenAIModel("m", base_url="http://127.0.0.1:9/v1", **arguments)
