"""A real HTTP server on this machine that rates answers, or whatever a test has it do instead."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """What it was asked; `reply(body)` gives a status and what the judge says, `raw` all of it."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict] = []
        self.reply: Callable[[dict], tuple[int, str | None]] = lambda body: (200, "[[10]]")
        self.raw: bytes | None = None

    def content(self, said: str | None) -> bytes:
        if self.raw is not None:
            return self.raw
        message = {"message": {"role": "assistant", "content": said}}
        return json.dumps({"choices": [message]}).encode()


@contextmanager
def judging_server() -> Iterator[Server]:
    """Listen on a free port while the context lasts."""
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.bodies.append({**body, "path": self.path})
            status, said = found.reply(body)
            content = found.content(said)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the one who asked has gone

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    found.url = f"http://127.0.0.1:{listening.server_port}/v1"
    try:
        yield found
    finally:
        listening.shutdown()
        listening.server_close()
