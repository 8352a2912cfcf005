"""A server that answers as vLLM does, with a checkpoint of ours behind it."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from eto_agents.models import Sampling
from eto_agents.models.checkpoint import load_checkpoint
from eto_agents.models.control_tokens import control_ids


class FakeVLLM:
    """Serves ``/v1/models`` and ``/v1/completions`` from a thread; a context manager.

    Attributes:
        url: the base URL.
        bodies: the requests so far.
        tells_ids: whether it returns token ids when it is asked to.
        root: the folder that it says it has.
        paths: the paths of the requests for new weights so far.
        tensors: puts the weights here that a trainer sends past HTTP, after it has announced them.
    """

    def __init__(self, folder: Path) -> None:
        self.checkpoint = load_checkpoint(folder, device="cpu")
        self.model = self.checkpoint.chat_model()
        self.root: str | None = str(folder)
        self.bodies: list[dict[str, Any]] = []
        self.tells_ids = True
        self.paths: list[str] = []
        self.tensors: queue.Queue[dict[str, torch.Tensor]] = queue.Queue()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path == "/health":
                    return self.send({})
                if self.path.startswith("/server_info"):
                    return self.send({"vllm_config": outer.info})
                entry = {"id": "agent", "object": "model", "created": 1, "owned_by": "vllm"}
                return self.send({"object": "list", "data": [entry | {"root": outer.root}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
                with outer._lock:
                    if not self.path.startswith("/v1/"):
                        outer.paths.append(self.path)
                        outer.prepare(self.path, body)
                        return self.send({"success": True})
                    outer.bodies.append(body)
                    self.send(outer.answer(self.path, body))

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

    info: dict[str, Any] = {  # noqa: RUF012 (a constant)
        "weight_transfer_config": {"backend": "nccl"},
        "model_config": {"logprobs_mode": "processed_logprobs"},
    }

    def prepare(self, path: str, body: dict[str, Any]) -> None:
        """Take new weights: those that are announced, in this order."""
        if path != "/update_weights":
            return
        sent = self.tensors.get(timeout=30)
        assert list(sent) == body["update_info"]["names"]
        parameters = dict(self.checkpoint.model.named_parameters())
        with torch.no_grad():
            for name, tensor in sent.items():
                parameters[name].copy_(tensor)

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/completions"
        assert (body["add_special_tokens"], body["return_token_ids"]) == (False, True)
        prompt = body["prompt"]
        sampling = Sampling(body["temperature"], 1.0, body["max_tokens"], body.get("stop", ()))
        seeds = [body["seed"]] if "seed" in body else None
        excluded = control_ids(
            self.checkpoint.model, self.checkpoint.tokenizer, self.checkpoint.template
        )
        with_tools = {*map(int, body["logit_bias"])} != {*excluded}
        self.model._clear_cache_if_trained()
        with self.model._inference():
            [(done, _)] = self.model._sample([prompt], sampling, seeds, with_tools=with_tools)
        drawn = done.drawn_ids
        # The log-probabilities of a stop's own tokens do not matter: they are cut off.
        log_probs = [*done.log_probs, *[-1.0] * (len(drawn) - len(done.log_probs))]
        choice: dict[str, Any] = {
            "index": 0,
            "text": done.text,
            "finish_reason": done.finish_reason,
            "logprobs": {
                "tokens": [""] * len(drawn),
                "token_logprobs": log_probs,
                "top_logprobs": None,
                "text_offset": [],
            },
        }
        if self.tells_ids:
            choice |= {"token_ids": drawn, "prompt_token_ids": prompt}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(drawn), "total_tokens": 0}
        reply = {"id": "x", "object": "text_completion", "created": 1, "model": "agent"}
        return reply | {"choices": [choice], "usage": usage}
