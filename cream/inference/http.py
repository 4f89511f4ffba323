"""JSON over HTTP to an OpenAI-compatible endpoint: an answer, or why there is none.

What belongs here: time limits, tries, and the names of failures. What is asked is for `servers`.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

__all__ = ["Endpoint", "RequestFailed", "short"]

TRIES = 3
LONGEST_PAUSE = 30.0  # seconds before a request is tried again
_MOST_BYTES = 16 * 2**20  # an answer that is longer is none
_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class RequestFailed(RuntimeError):
    """A request without an answer: the kind of failure, its detail, whether to try again."""

    def __init__(self, kind: str, detail: str = "", again: bool = False, pause: float = 0) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.again, self.pause = kind, again, pause


class Endpoint:
    """An OpenAI-compatible HTTP endpoint: JSON goes out, JSON comes back, or `RequestFailed`.

    `timeout` (seconds) is for a whole answer, so that one that drips is no answer either. What may
    pass (no connection, no answer in time, overload, an error of the server) is tried `TRIES`
    times, later and later. The environment's CREAM_API_KEY, if set, is sent as the key.
    """

    def __init__(self, url: str, timeout: float = 300.0) -> None:
        self.url, self.timeout = url, timeout
        self._given_up = threading.Event()
        key = os.environ.get("CREAM_API_KEY")
        here = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, pool=None),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None),
            trust_env=not here,  # a proxy does not lead to this machine
        )

    def get(self, path: str) -> dict:
        """Return what the endpoint has at `path`, once tried."""
        return self._once("GET", path, None)

    def post(self, path: str, body: Mapping[str, object]) -> dict:
        """Send `body` to `path` and return the answer's JSON object."""
        for attempt in range(TRIES - 1):
            try:
                return self._once("POST", path, body)
            except RequestFailed as error:
                if not error.again or self._given_up.is_set():
                    raise
                self._given_up.wait(min(LONGEST_PAUSE, error.pause or 2.0**attempt))
        return self._once("POST", path, body)

    def give_up(self, now: bool = True) -> None:
        """Let requests that wait for another try fail now; with `now` False, be patient again."""
        self._given_up.set() if now else self._given_up.clear()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _once(self, method: str, path: str, body: Mapping[str, object] | None) -> dict:
        try:
            status, content, pause = self._exchange(method, path, body)
        except httpx.TimeoutException:
            raise RequestFailed("no answer", f"within {self.timeout:g} s", again=True) from None
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            raise RequestFailed("no connection", reason, again=True) from None
        text = content.decode("utf-8", "replace")
        if status != 200:
            raise RequestFailed(f"HTTP {status}", short(text), status in _AGAIN, pause)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RequestFailed("no JSON object", short(text))
        return found

    def _exchange(
        self, method: str, path: str, body: Mapping[str, object] | None
    ) -> tuple[int, bytes, float]:
        deadline, content = time.monotonic() + self.timeout, bytearray()
        with self._client.stream(method, f"{self.url}/{path}", json=body) as response:
            for part in response.iter_bytes():
                content += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer drips")
                if len(content) > _MOST_BYTES:
                    raise RequestFailed("no JSON object", f"more than {_MOST_BYTES} bytes")
            after = response.headers.get("retry-after", "")
        return response.status_code, bytes(content), float(after) if after.isdecimal() else 0.0


def short(text: str) -> str:
    """Return the beginning of a text, in one line, for a message."""
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."
