"""The client of OpenAI-compatible servers, against a server in a thread."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import eto_agents.models.openai as openai_module
from eto_agents.models import ChatModel, Completion, Sampling, load_model
from eto_agents.models.openai import MAX_TEXT_CHARS, OpenAIModel
from eto_agents.models.recordings import Recordings, request_key
from eto_agents.react.tools import ACT
from eto_agents.trajectory import Message
from eto_envs.errors import CorruptDataError

if importlib.util.find_spec("openai") is None:
    pytest.skip("openai is not installed", allow_module_level=True)

Answer = tuple[int, Any, dict[str, str]]


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 1024  # hundreds of clients connect at the same moment

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be quiet about clients that have gone."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


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

        self.http = _HTTPServer(("127.0.0.1", 0), Handler)
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


def test_the_concurrency_holds_for_all_threads_together(server: Server) -> None:
    def answer(body: dict[str, Any], n: int) -> Answer:
        time.sleep(0.02)
        return reply(body["messages"][0]["content"].upper())

    server.answer = answer
    model = connect(server, concurrency=3)
    with ThreadPoolExecutor(12) as pool:
        completions = list(pool.map(lambda i: one(model, f"text {i}"), range(24)))
    assert [completion.text for completion in completions] == [f"TEXT {i}" for i in range(24)]
    assert 2 <= server.most_at_once <= 3
    assert model.totals["requests"] == 24


def test_connections_are_used_again(server: Server) -> None:
    server.http.RequestHandlerClass.protocol_version = "HTTP/1.1"
    connected: list[Any] = []
    server.http.verify_request = lambda request, address: not connected.append(address)  # type: ignore[method-assign]
    model = connect(server)
    server.answer = lambda body, n: (503, {}, {}) if n == 2 else reply("x")
    assert [one(model).text for _ in range(3)] == ["x"] * 3
    assert len(server.bodies) == 4
    assert len(connected) == 1


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
    assert completion.is_permanent
    assert len(server.bodies) == 1


def test_a_refusal_of_what_a_chat_says_is_not_permanent(server: Server) -> None:
    error = {"message": "The prompt was filtered", "code": "content_filter", "status": 400}
    server.answer = lambda body, n: (400, {"error": error}, {})
    completion = one(connect(server))
    assert "The prompt was filtered" in completion.error
    assert not completion.is_permanent
    server.answer = lambda body, n: reply("", finish_reason="content_filter")
    assert not one(connect(server)).is_permanent


def test_retries_are_limited(server: Server) -> None:
    server.answer = lambda body, n: (503, {}, {})
    model = connect(server, n_retries=2)
    completion = one(model)
    assert "attempt 3" in completion.error
    assert completion.is_permanent
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
    pacer = openai_module.Pacer(0.05)
    for _ in range(4):
        pacer.wait()
    monkeypatch.undo()
    assert slept_s == pytest.approx([0.0, 0.05, 0.1, 0.15])

    waited: list[float] = []
    model = connect(server, requests_per_minute=6_000)
    monkeypatch.setattr(openai_module.Pacer, "wait", lambda pacer: waited.append(pacer._interval_s))
    model.generate([chat(str(i)) for i in range(4)], Sampling())
    assert waited == [0.01] * 4


def test_an_unreachable_server() -> None:
    model = OpenAIModel("m", base_url="http://user:word@127.0.0.1:9/v1", backoff_s=0, n_retries=1)
    completion = one(model)
    assert completion.is_permanent
    error = completion.error
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


def tokens_of(*texts: str, log_prob: float = -0.5) -> list[dict[str, Any]]:
    return [
        {"token": text, "logprob": log_prob - i, "bytes": list(text.encode()), "top_logprobs": []}
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("texts", "n_whole", "text"),
    [
        (["Action", ": look", "\n", "Observation", ": x", ""], 2, "Action: look"),
        (["Action: look\n", "Observation: x"], 0, "Action: look"),  # the stop begins in a token
        (["Action: ", "é", "\nObservation: x"], 2, "Action: é"),
        (["Action: look", "\nTask: y", "\nObservation: x"], 1, "Action: look"),
        (["\nObservation: x"], 0, ""),
    ],
)
def test_a_server_that_ignores_stops(
    server: Server, texts: list[str], n_whole: int, text: str
) -> None:
    ids = list(range(len(texts)))
    server.answer = lambda body, n: reply(
        "".join(texts),
        logprobs={"content": tokens_of(*texts)},
        token_ids=ids,
        finish_reason="length",
    )
    for omit in ([], ["stop"]):
        completion = one(connect(server, log_probs=True, omit=omit))
        assert completion.text == text
        assert completion.token_ids == ids[:n_whole]
        assert completion.log_probs == [-0.5 - i for i in range(n_whole)]
        assert completion.finish_reason == "stop"
        assert "stop" in server.bodies[0]


def test_tokens_that_are_not_those_of_the_text_do_not_outlive_a_cut(server: Server) -> None:
    content = {"content": tokens_of("thinking", "Action: look\nObservation: x")}
    server.answer = lambda body, n: reply(
        "Action: look\nObservation: x", logprobs=content, token_ids=[1, 2]
    )
    completion = one(connect(server))
    assert completion.text == "Action: look"
    assert (completion.token_ids, completion.log_probs) == (None, None)


def test_a_stop_in_the_models_thoughts_does_not_end_its_reply(server: Server) -> None:
    text = "<think>If\nObservation: x</think>Action: look"
    server.answer = lambda body, n: reply(text + "\nObservation: y")
    assert one(connect(server)).text == text


RATE = {"message": "Rate limit reached. " + "Wait. " * 200 + "The end", "code": 429}
DOWN = {"message": "Provider returned error", "code": "502", "metadata": {"raw": "upstream"}}


@pytest.mark.parametrize(
    ("record", "message", "is_transient"),
    [
        ({"error": RATE}, RATE["message"], True),
        ({"error": DOWN}, 'Provider returned error {"code": "502", "metadata": {"raw":', True),
        ({"error": {"message": "bad", "code": 400}}, "bad", False),
        ({"error": {"message": "bad", "type": "rate_limit_error"}}, "bad", True),
        ({"error": "just a text"}, "just a text", False),
        (reply("", error=RATE, finish_reason="error")[1], RATE["message"], True),
        (reply("half a", error=DOWN)[1], "Provider returned error", True),
        (reply("x", error={"message": "moderated", "code": 403})[1], "moderated", False),
        (reply("", finish_reason="error")[1], "finish_reason 'error'", False),
        (reply("half", finish_reason="error")[1], "finish_reason 'error'", False),
        ({"object": "error", "message": "too long", "code": 400}, "too long", False),
        ({"object": "error", "message": "busy", "code": 503}, "busy", True),
    ],
)
def test_errors_inside_a_200_answer(
    server: Server, record: dict[str, Any], message: str, is_transient: bool
) -> None:
    server.answer = lambda body, n: (200, record, {}) if n < 3 else reply("at last")
    completion = one(connect(server))
    if is_transient:
        assert (completion.text, completion.error) == ("at last", "")
    server.answer = lambda body, n: (200, record, {})
    n_before = len(server.bodies)
    completion = one(connect(server, n_retries=2))
    assert completion.text == ""
    assert message in completion.error
    assert len(server.bodies) - n_before == (3 if is_transient else 1)


def test_an_empty_error_is_none(server: Server) -> None:
    status, record, headers = reply("fine", error=None)
    server.answer = lambda body, n: (status, record | {"error": None}, headers)
    assert one(connect(server)).text == "fine"


def test_the_message_of_a_failed_status_is_whole(server: Server) -> None:
    server.answer = lambda body, n: (400, {"error": RATE}, {})
    assert RATE["message"] in one(connect(server)).error


@pytest.mark.parametrize("pause", ["nan", "inf", "-inf", "1e400", "-5", "soon", "", "0x10"])
def test_odd_pauses_take_nothing_with_them(server: Server, pause: str) -> None:
    server.answer = lambda body, n: (
        (429, {}, {"Retry-After": pause}) if n == 1 else reply(str(body["messages"][0]["content"]))
    )
    completions = connect(server).generate([chat(text) for text in "abc"], Sampling())
    assert [completion.text for completion in completions] == ["a", "b", "c"]


def test_a_pause_until_a_date() -> None:
    assert openai_module._pause_named("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert openai_module._pause_named("Wed, 21 Oct 2999 07:28:00 GMT") == 60.0
    assert openai_module._pause_named("Wed, 99 Oct 2999") is None
    assert openai_module._pause_named("12.5") == 12.5


HUGE = b"9" * 400
BROKEN: list[tuple[str, bytes]] = [
    ("deep JSON", b"[" * 100_000 + b"]" * 100_000),
    ("huge counts", b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], '
     b'"usage": {"prompt_tokens": ' + HUGE + b', "completion_tokens": 1}}'),
    ("NaN counts", b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], '
     b'"usage": {"prompt_tokens": NaN, "completion_tokens": 1}}'),
    ("negative counts", b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], '
     b'"usage": {"prompt_tokens": -3, "completion_tokens": 1}}'),
    ("a number of choices", b'{"choices": 3}'),
    ("NaN log-probs", b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop", '
     b'"logprobs": {"content": [{"token": "x", "logprob": NaN}]}}]}'),
    ("odd ids", b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop", '
     b'"token_ids": [1, "2"]}]}'),
    ("odd chunks", b'{"choices": [{"message": {"content": [{"type": "text", "text": 3}]}, '
     b'"finish_reason": "stop"}]}'),
]  # fmt: skip


@pytest.mark.parametrize("content", [c for _, c in BROKEN], ids=[name for name, _ in BROKEN])
def test_one_broken_reply_does_not_take_its_batch_with_it(server: Server, content: bytes) -> None:
    server.answer = lambda body, n: (
        (200, content, {}) if body["messages"][0]["content"] == "bad" else reply("fine")
    )
    bad, good = connect(server).generate([chat("bad"), chat("good")], Sampling())
    assert bad.error
    assert (good.text, good.error) == ("fine", "")


def test_an_exception_in_one_request_is_its_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(self: Recordings, key: str, record: dict[str, Any]) -> dict[str, Any]:
        if record["text"] == "BAD":
            raise ZeroDivisionError("by a bug")
        return record

    monkeypatch.setattr(Recordings, "put", put)
    server.answer = lambda body, n: reply(body["messages"][0]["content"].upper())
    model = connect(server, recordings=tmp_path / "m.jsonl")
    bad, good = model.generate([chat("bad"), chat("good")], Sampling())
    assert "ZeroDivisionError: by a bug" in bad.error
    assert good.text == "GOOD"
    assert model.totals["errors"] == 1


@pytest.mark.parametrize(
    "message",
    [
        {"content": "", "reasoning_content": "Hmm, "},
        {"content": None, "reasoning_content": "Hmm, "},
        {"content": "", "reasoning": "Hmm, "},
        {"content": "<think>Hmm, "},
        {"content": [{"type": "thinking", "thinking": "Hmm, "}]},
    ],
)
def test_a_model_that_thinks_until_the_limit(server: Server, message: dict[str, Any]) -> None:
    server.answer = lambda body, n: reply("", message=message, finish_reason="length")
    completion = one(connect(server), max_tokens=77)
    assert "still thinking after 77 tokens" in completion.error
    assert "raise max_tokens" in completion.error
    assert completion.usage["completion_tokens"] == 10.0


def test_hidden_reasoning_until_the_limit(server: Server) -> None:
    status, record, headers = reply("", finish_reason="length")
    record["usage"] |= {"completion_tokens_details": {"reasoning_tokens": 10}}
    server.answer = lambda body, n: (status, record, headers)
    assert "raise max_tokens" in one(connect(server)).error


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"finish_reason": "tool_calls"}, "tool_calls"),
        ({"message": {"content": "", "refusal": "I will not."}}, "I will not."),
    ],
)
def test_an_empty_text_with_a_reason_is_an_error(
    server: Server, choice: dict[str, Any], reason: str
) -> None:
    server.answer = lambda body, n: reply("", **choice)
    assert reason in one(connect(server)).error


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Action: "}, {"type": "text", "text": "look"}],
        ["Action: ", "look"],
        [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Action: look"}],
    ],
)
def test_content_in_chunks(server: Server, content: list[Any]) -> None:
    message = {"role": "assistant", "content": content}
    server.answer = lambda body, n: reply("", message=message)
    assert one(connect(server)) == Completion(
        "Action: look", usage={"prompt_tokens": 100.0, "completion_tokens": 10.0}
    )


def call(call_id: Any = "a1", name: Any = "act", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: Any, content: str | None = None, reason: str = "tool_calls") -> Answer:
    message = {"role": "assistant", "content": content, "tool_calls": list(calls)}
    return reply(None, message=message, finish_reason=reason)


def one_with_tools(model: OpenAIModel, **sampling: Any) -> Completion:
    [completion] = model.generate([chat()], Sampling(**sampling), tools=[ACT])
    return completion


def test_tools_calls_and_results_are_sent_as_they_are(server: Server) -> None:
    said: Any = {"role": "assistant", "content": "", "tool_calls": [call()]}
    messages: list[Message] = [
        *chat(),
        said,
        {"role": "tool", "content": "A page.", "tool_call_id": "a1"},
    ]
    connect(server).generate([messages], Sampling(), tools=[ACT])
    assert server.bodies[0]["tools"] == [ACT]
    assert server.bodies[0]["messages"] == messages
    connect(server).generate([chat()], Sampling())
    assert "tools" not in server.bodies[1]


@pytest.mark.parametrize("content", [None, "", "I look."])
def test_a_reply_with_calls(server: Server, content: str | None) -> None:
    calls = [call("a1", "act", '{"action": "look"}'), call("a2", "act", "{not JSON")]
    server.answer = lambda body, n: calling(*calls, content=content)
    completion = one_with_tools(connect(server))
    assert completion.error == ""
    assert completion.text == (content or "")
    assert completion.tool_calls == calls
    assert completion.finish_reason == "tool_calls"


def test_a_reply_in_text_where_there_are_tools(server: Server) -> None:
    for calls in (None, []):
        message = {"role": "assistant", "content": "I think.", "tool_calls": calls}
        server.answer = lambda body, n, message=message: reply("", message=message)  # type: ignore[misc]
        completion = one_with_tools(connect(server))
        assert (completion.text, completion.tool_calls) == ("I think.", [])
        assert completion.error == ""


def test_calls_that_nobody_asked_for_are_no_reply(server: Server) -> None:
    server.answer = lambda body, n: calling(call())
    assert "the server gave no text: finish_reason 'tool_calls'" in one(connect(server)).error


ODD_CALLS: list[tuple[str, Any]] = [
    ("no list", 3),
    ("a text", "act"),
    ("numbers", [1]),
    ("nothing", [None]),
    ("no function", [{"id": "a", "type": "function"}]),
    ("a custom tool", [{"id": "a", "type": "custom", "custom": {"name": "act", "input": "x"}}]),
    ("an object as arguments", [call(arguments={"action": "look"})]),
    ("no arguments", [call(arguments=None)]),
    ("no name", [call(name=None)]),
    ("an empty name", [call(name="")]),
    ("no id", [call(None)]),
    ("an empty id", [call("")]),
    ("a number as id", [call(7)]),
    ("the same id twice", [call("a"), call("a")]),
    ("too much", [call(arguments="x" * (MAX_TEXT_CHARS + 1))]),
    ("too much together", [call(str(n), arguments="x" * (MAX_TEXT_CHARS // 2)) for n in range(2)]),
]


@pytest.mark.parametrize("calls", [c for _, c in ODD_CALLS], ids=[name for name, _ in ODD_CALLS])
def test_odd_calls_are_the_error_of_their_completion(server: Server, calls: Any) -> None:
    def answer(body: dict[str, Any], n: int) -> Answer:
        is_bad = body["messages"][0]["content"] == "bad"
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": calls if is_bad else [call()],
        }
        return reply(None, message=message, finish_reason="tool_calls")

    server.answer = answer
    bad, good = connect(server).generate([chat("bad"), chat("good")], Sampling(), tools=[ACT])
    assert bad.error
    assert (bad.text, bad.tool_calls) == ("", [])
    assert (good.tool_calls, good.error) == ([call()], "")


def test_calls_after_a_stop_go_with_the_text(server: Server) -> None:
    server.answer = lambda body, n: calling(call(), content="I look.\nObservation: a page")
    completion = one_with_tools(connect(server))
    assert (completion.text, completion.tool_calls) == ("I look.", [])
    assert one_with_tools(connect(server), stop=()).tool_calls == [call()]


def test_recordings_carry_calls(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, n: calling(call())
    path = tmp_path / "m.jsonl"
    made = one_with_tools(connect(server, recordings=path))
    replayed = one_with_tools(OpenAIModel("m", recordings=path, offline=True))
    assert made.tool_calls == replayed.tool_calls == [call()]
    assert "is not recorded" in one(OpenAIModel("m", recordings=path, offline=True)).error


def test_the_key_is_in_no_message(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    key = "sk-verysecret"
    error = {"error": {"message": f"Incorrect API key provided: {key}", "code": 500}}
    server.answer = lambda body, n: (200, error, {}) if n < 3 else (500, error, {})
    completion = one(connect(server, api_key=key, n_retries=3))
    assert "Incorrect API key provided: ***" in completion.error
    assert key not in completion.error + caplog.text


def test_why_a_connection_failed() -> None:
    model = OpenAIModel("m", base_url="http://127.0.0.1:9/v1", backoff_s=0, n_retries=0)
    assert "refused" in one(model).error


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
    assert missing.is_permanent
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
    with pytest.raises(CorruptDataError, match=r"m\.jsonl, line 1: not a recorded reply"):
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
