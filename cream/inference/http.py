"""JSON over HTTP to an OpenAI-compatible endpoint: an answer, or why there is none.

What belongs here: time limits, tries, and the names of failures. What is asked is for `server`.
"""

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx

__all__ = ["Endpoint", "RequestFailed", "retry_after", "short"]

log = logging.getLogger(__name__)

TRIES = 3
PATIENCE = 300.0  # seconds that a server may take to load its model, or ask to be left alone for
LONGEST_PAUSE = 30.0  # seconds before a request is tried again, unless the server says when
_MOST_BYTES = 16 * 2**20  # an answer that is longer is none
_AGAIN = {408, 425, 429}  # and the server's own errors, 5xx
_NEVER = {501, 505}  # of these
_STARTING = 503  # what servers answer while they load


class RequestFailed(RuntimeError):
    """A request without an answer: the kind of failure, its detail, whether to try again."""

    def __init__(self, kind: str, detail: str = "", again: bool = False, pause: float = 0) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.again, self.pause = kind, again, pause

    @property
    def starting(self) -> bool:
        """Whether a server says that it is not ready yet."""
        return self.kind == f"HTTP {_STARTING}"


class Endpoint:
    """An OpenAI-compatible HTTP endpoint: JSON goes out, JSON comes back, or `RequestFailed`.

    `timeout` (seconds) is for a whole answer, so that one that drips is no answer either. What may
    pass (no connection, no answer in time, overload, an error of the server) is tried `TRIES`
    times, later and later, or when the server says (Retry-After); one that is starting (503) is
    asked for `PATIENCE` seconds. The environment's CREAM_API_KEY, if set, is sent as the key.
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
        """Return what the endpoint has at `path`."""
        return self._patiently("GET", path, None)

    def post(self, path: str, body: Mapping[str, object]) -> dict:
        """Send `body` to `path` and return the answer's JSON object."""
        return self._patiently("POST", path, body)

    def _patiently(self, method: str, path: str, body: Mapping[str, object] | None) -> dict:
        """Ask until there is an answer, a failure that stays, or no more patience."""
        began, attempt, tries = time.monotonic(), 0, TRIES if method == "POST" else 1
        while True:
            try:
                return self._once(method, path, body)
            except RequestFailed as error:
                attempt += 1
                left = began + PATIENCE - time.monotonic()
                pause = self._pause(error, attempt, tries, left)
                if pause is None or self._given_up.is_set():
                    raise
                if attempt == 1 and (error.starting or pause > 10):
                    log.warning("%s: %s; waiting, at most %.0f s", self.url, error, left)
            self._given_up.wait(pause)

    def _pause(self, error: RequestFailed, attempt: int, tries: int, left: float) -> float | None:
        """Seconds until the next try; None for a failure that stays, or that lasts too long."""
        if not error.again or (attempt >= tries and not error.starting):
            return None
        pause = error.pause or min(LONGEST_PAUSE, 2.0 ** (attempt - 1))
        if pause > left:
            wanted = f"asks for {pause:g} s more" if error.pause else f"tried {attempt} times"
            error.args = (f"{error} ({wanted}; it is waited for {PATIENCE:g} s)",)
            return None
        return pause

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
            raise RequestFailed(f"HTTP {status}", short(text), _passes(status), pause)
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
            after = retry_after(response.headers)
        return response.status_code, bytes(content), after


def _passes(status: int) -> bool:
    return status in _AGAIN or (500 <= status <= 599 and status not in _NEVER)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that an answer asks to wait, in any of its forms; 0 if it says none."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(headers.get(name, "")) / unit
            return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    try:
        then = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


def short(text: str) -> str:
    """Return the beginning of a text, in one line, for a message."""
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."
