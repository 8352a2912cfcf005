"""A server that answers as vLLM does, with a checkpoint of ours behind it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from eto_agents.models import Sampling
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.react.chat import encode


class FakeVLLM:
    """Serves ``/v1/models`` and ``/v1/chat/completions`` from a thread; a context manager.

    Attributes:
        url: the base URL.
        bodies: the requests so far.
        extra_prompt_ids: tokens that the server's template adds to a prompt.
        tells_ids: whether it returns token ids when it is asked to.
        root: the folder that it says it has.
    """

    def __init__(self, folder: Path) -> None:
        self.checkpoint = load_checkpoint(folder, device="cpu")
        self.model = self.checkpoint.chat_model()
        self.root: str | None = str(folder)
        self.bodies: list[dict[str, Any]] = []
        self.extra_prompt_ids: list[int] = []
        self.tells_ids = True
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                entry = {"id": "agent", "object": "model", "created": 1, "owned_by": "vllm"}
                self.send({"object": "list", "data": [entry | {"root": outer.root}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.bodies.append(body)
                    self.send(outer.answer(body))

            def send(self, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                """Be quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> FakeVLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = body["messages"]
        sampling = Sampling(body["temperature"], 1.0, body["max_tokens"], tuple(body["stop"]))
        seeds = None if "seed" not in body else [body["seed"]]
        [done] = self.model.generate([chat], sampling, seeds)
        prompt = encode(
            chat, self.checkpoint.tokenizer, self.checkpoint.template, for_reply=True
        ).ids
        assert done.log_probs is not None
        tokens = [
            {"token": "", "logprob": p, "bytes": None, "top_logprobs": []} for p in done.log_probs
        ]
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": done.text},
            "finish_reason": done.finish_reason,
            "logprobs": {"content": tokens},
        }
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(tokens), "total_tokens": 0}
        reply = {"id": "x", "object": "chat.completion", "created": 1, "model": "agent"}
        reply |= {"choices": [choice], "usage": usage}
        if self.tells_ids and body.get("return_token_ids"):
            choice["token_ids"] = done.token_ids
            reply["prompt_token_ids"] = self.extra_prompt_ids + prompt
        return reply
