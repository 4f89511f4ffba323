"""A real HTTP server on this machine that speaks as much of OpenAI's interface as the tests need.

It serves a tiny model by `cream.inference.generation`, and goes wrong in every way it is set to.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream.inference.generation import greedy, tokenize

Reply = tuple[int, bytes]


def completion(text: str, read: int, new: int, end: str = "length") -> Reply:
    """What a server answers when all is well."""
    choice = {"index": 0, "text": text, "finish_reason": end}
    usage = {"prompt_tokens": read, "completion_tokens": new}
    return 200, json.dumps({"choices": [choice], "usage": usage}).encode()


def refusal(status: int, message: str) -> Reply:
    """What a server answers to what it does not take."""
    return status, json.dumps({"error": {"message": message}}).encode()


class TinyServer:
    """Answers by a tiny model; `wrong(body)` may reply in its place, `strict` refuses extras."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        strict: bool = False,
        context: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.strict, self.context = model, tokenizer, strict, context
        self.wrong: Callable[[dict], Reply | None] = lambda body: None
        self.bodies: list[dict] = []
        self.lock = threading.Lock()

    def models(self) -> Reply:
        one = {"id": "tiny", "object": "model", "max_model_len": self.context}
        return 200, json.dumps({"object": "list", "data": [one]}).encode()

    def reply(self, body: dict) -> Reply:
        self.bodies.append(body)
        if (found := self.wrong(body)) is not None:
            return found
        if body["model"] != "tiny":
            return refusal(404, f"no model {body['model']}")
        prompt = body["prompt"]
        if self.strict and not isinstance(prompt, str):
            return refusal(400, "prompt must be a string")
        if self.strict and set(body) - {"model", "prompt", "max_tokens", "temperature", "seed"}:
            return refusal(422, "Unexpected fields in the request")
        text = prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt[1:])
        assert body["temperature"] == 0 and "stop" not in body
        most, least = body["max_tokens"], body.get("min_tokens", 0)
        with self.lock:
            how = {"min_new_tokens": least, "allow_beyond": True}
            (done,) = greedy(self.model, self.tokenizer, [text], most, **how)
        return completion(done.text, len(tokenize(self.tokenizer, text)), most)


@contextmanager
def serving(answer: Callable[[str, dict], Reply]) -> Iterator[str]:
    """Serve `answer(path, body)` on a free port; yields the URL that ends in /v1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(*answer(self.path, {}))

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            self._send(*answer(self.path, json.loads(content) | {"_headers": dict(self.headers)}))

        def _send(self, status: int, content: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 4096):
                self.wfile.write(content[start : start + 4096])

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:  # clients that hang up are what is tested
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving_model(tiny: TinyServer) -> Iterator[str]:
    """Serve a `TinyServer`."""

    def answer(path: str, body: dict) -> Reply:
        if path == "/v1/models":
            return tiny.models()
        body.pop("_headers", None)
        return tiny.reply(body) if path == "/v1/completions" else refusal(404, "no such page")

    with serving(answer) as url:
        yield url


def hang(seconds: float) -> Reply:
    """An answer that comes too late."""
    time.sleep(seconds)
    return 200, b"{}"
