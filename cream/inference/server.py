"""A second engine: a model behind any OpenAI-compatible server, as vLLM, SGLang or llama.cpp run.

    http://localhost:8000/v1#NAME                 the model that the server calls NAME
    http://localhost:8000/v1#NAME=runs/x          and which, you say, has the weights of runs/x
    http://localhost:8000/v1?timeout=60&requests=4#NAME    60 s for an answer, 4 questions at a time

A space in NAME is written %20. What belongs here: asking a server for greedy completions, and
telling an answer from what is none.
A request that was refused, hung, or came back as something else has no answer: it is counted under
its reason and nothing is made up in its place. A key that the server wants is read from the
environment, CREAM_API_KEY.

Servers leave the stop string out of an answer and do not say that it was there. So none is sent:
the answer runs to max_tokens, and is cut here as `generation.greedy` cuts its own.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from transformers import PreTrainedTokenizerBase

from cream.inference.generation import Completion, tokenize
from cream.inference.http import Endpoint, RequestFailed, short
from cream.inference.stopping import cut
from cream.utils.provenance import hash_of

__all__ = ["Address", "Failed", "Request", "Server", "parse"]

_ENDS = {"stop", "length", "eos", "eos_token", "stop_sequence"}
# Every pair of (prompt as token ids, with min_tokens and repetition_penalty), the best first.
_FORMS = ((True, True), (True, False), (False, True), (False, False))
_TRIAL = "The grass is green. The sky is blue. 1 2 3 4"
_FINGERPRINT = (_TRIAL, 'line bakamo-tilune: REGISTER_CONTENT is <41873>\n"', "Once upon a time")


class Address(NamedTuple):
    """Where a model is served, the server's name for it, and the checkpoint it is said to be."""

    url: str
    model: str
    checkpoint: str | None = None
    timeout: float = 300.0
    requests: int = 8


class Request(NamedTuple):
    """One prompt to continue greedily."""

    prompt: str
    max_new_tokens: int
    stop: str | None = None
    min_new_tokens: int = 0


class Failed(RuntimeError):
    """Some requests of an evaluation have no answer, and so no row; the others have theirs."""


def parse(name: str) -> Address | None:
    """Read a server's address from a model's name; None for a name that is no URL.

    ValueError says what a URL lacks or has too much.
    """
    if not name.startswith(("http://", "https://")):
        return None
    parts = urlsplit(name)
    model, _, checkpoint = (unquote(each) for each in parts.fragment.partition("="))
    if not parts.hostname or not model:
        raise ValueError(
            f"{name!r} names no model: write URL#NAME with the name that the server gives it, "
            "for example http://localhost:8000/v1#my-model"
        )
    options: dict[str, float] = {"timeout": 300.0, "requests": 8}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        options[key] = _option(name, key, value)
    url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    requests = int(options["requests"])
    return Address(url, model, checkpoint or None, options["timeout"], requests)


def _option(name: str, key: str, value: str) -> float:
    if key not in ("timeout", "requests"):
        raise ValueError(f"{name!r} sets {key!r}; a server has timeout (seconds) and requests")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6 or (key == "requests" and number != int(number)):
        raise ValueError(f"{name!r} sets {key} to {value!r}; it must be a number above 0")
    return number


class _RequestFormat(NamedTuple):
    """How a server wants its questions."""

    ids: bool  # prompts as token ids, else as text
    extras: bool  # takes min_tokens and repetition_penalty


class Server:
    """A model behind a server that has been reached, with the form of question it takes.

    Token ids are sent where the server takes them, otherwise text. Either way it must say that it
    read as many tokens as `tokenizer` gives the prompt: a server that cuts prompts short, or reads
    with another tokenizer, fails. Raises ConnectionError if no form of question gets an answer.
    """

    def __init__(self, address: Address, tokenizer: PreTrainedTokenizerBase) -> None:
        self.address, self.tokenizer = address, tokenizer
        self._endpoint = Endpoint(address.url, address.timeout)
        self.served, self.context = self._listed()
        self._format = self._tried()

    @property
    def settings(self) -> dict[str, object]:
        """How questions reach the model, and what only the server knows; part of a row's key."""
        return {
            "engine": "openai-completions",
            "prompts": "token ids" if self._format.ids else "text",
            "min_tokens": "sent" if self._format.extras else "checked",
            "context": self.context or "the server's",
            "dtype": "the server's",
            "batching": "the server's",
            "weights": "named" if self.address.checkpoint else "fingerprint",
        }

    def fingerprint(self) -> str:
        """Return 16 hex digits over the model's name and its answers to three fixed prompts.

        All that can be had of a model whose weights are out of sight: other weights answer
        otherwise, as may the same ones on another card.
        """
        asked = [Request(prompt, 16) for prompt in _FINGERPRINT]
        return hash_of("server", self.address.model, [self._answer(one) for one in asked])

    def complete(self, asked: Sequence[Request]) -> Iterator[Completion]:
        """Yield answers as they come, several requests at a time; at the end, raise what failed.

        ValueError, before anything is asked, for prompts beyond the server's context, where it
        tells it. `Failed` counts the requests without an answer by their reasons; once as many
        fail in a row as are sent at a time, three at least, no more are sent.
        """
        self._check_context(asked)
        failures: list[RequestFailed] = []
        answered = in_a_row = 0
        pool = ThreadPoolExecutor(self.address.requests)
        self._endpoint.give_up(False)
        try:
            waiting = {pool.submit(self._answer, one): i for i, one in enumerate(asked)}
            for done in as_completed(waiting):
                if (failure := _failure(done)) is None:
                    answered, in_a_row, index = answered + 1, 0, waiting[done]
                    num_tokens = len(tokenize(self.tokenizer, asked[index].prompt))
                    yield Completion(index, done.result(), num_tokens)
                    continue
                failures.append(failure)
                in_a_row += 1
                if in_a_row >= max(3, self.address.requests):
                    break
        finally:
            if len(failures) + answered < len(asked):
                self._endpoint.give_up()
            pool.shutdown(wait=False, cancel_futures=True)
        if failures:
            raise Failed(self._summary(failures, answered, len(asked)))

    def _summary(self, failures: Sequence[RequestFailed], answered: int, total: int) -> str:
        kinds = Counter(failure.kind for failure in failures)
        examples = {failure.kind: str(failure) for failure in reversed(failures)}
        reasons = "; ".join(f"{count} x {examples[kind]}" for kind, count in kinds.most_common())
        left = total - answered - len(failures)
        rest = f", and {left} were not waited for" if left else ""
        return (
            f"{len(failures)} of {total} requests to {self.address.url} have no answer{rest}: "
            f"{reasons}. They have no row, the {answered} that were answered have theirs; run the "
            "same again to ask only what is missing"
        )

    def _listed(self) -> tuple[list[str], int | None]:
        """The models a server says it has and, of this one, the longest context; many say none."""
        try:
            data = self._endpoint.get("models").get("data")
        except RequestFailed:
            return [], None
        listed = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
        lengths = [
            one.get("max_model_len") for one in listed if one.get("id") == self.address.model
        ]
        length = lengths[0] if lengths and isinstance(lengths[0], int) else None
        return [str(one.get("id")) for one in listed], length

    def _tried(self) -> _RequestFormat:
        """Ask a short question in each form until one is taken as it is meant."""
        refused = []
        for form in (
            _RequestFormat(True, True),
            _RequestFormat(True, False),
            _RequestFormat(False, True),
            _RequestFormat(False, False),
        ):
            self._format = form
            try:
                self._answer(Request(_TRIAL, 4, min_new_tokens=4 if form.extras else 0))
                return form
            except RequestFailed as error:
                refused.append(str(error))
                if error.again:
                    break
        has = f" It serves: {', '.join(self.served)}." if self.served else ""
        raise ConnectionError(
            f"{self.address.url} gives no completions of {self.address.model!r}: {refused[-1]}."
            f"{has} Is the server up, and is the name the one it gives the model?"
        )

    def _check_context(self, asked: Sequence[Request]) -> None:
        if self.context is None:
            return
        sizes = [len(tokenize(self.tokenizer, one.prompt)) + one.max_new_tokens for one in asked]
        if beyond := [size for size in sizes if size > self.context]:
            raise ValueError(
                f"{len(beyond)} of {len(sizes)} samples, the longest of {max(beyond)} tokens with "
                f"their answers, exceed the context of {self.context} that {self.address.url} "
                "serves: shorten them, or start the server with a longer one"
            )

    def _answer(self, request: Request) -> str:
        """The continuation of one prompt, cut at its stop string."""
        ids = tokenize(self.tokenizer, request.prompt)
        body = {
            "model": self.address.model,
            "prompt": ids if self._format.ids else request.prompt,
            "max_tokens": request.max_new_tokens,
            "temperature": 0,
            "seed": 0,
        }
        if self._format.extras:
            body |= {"min_tokens": request.min_new_tokens, "repetition_penalty": 1.0}
        text, end, read, new = _completion(self._endpoint.post("completions", body))
        if read != len(ids):
            raise RequestFailed("prompt misread", f"{read} tokens read, not its {len(ids)}")
        if new > request.max_new_tokens:
            raise RequestFailed("too long", f"{new} tokens, at most {request.max_new_tokens} asked")
        # A server that ends by itself counts its end token, or does not.
        least = request.min_new_tokens + (not self._format.extras and end != "length")
        if request.min_new_tokens and new < least:
            raise RequestFailed("too short", f"{new} tokens, {request.min_new_tokens} asked")
        return cut(text, request.stop)


def _failure(done: Future) -> RequestFailed | None:
    error = done.exception()
    if error is not None and not isinstance(error, RequestFailed):
        raise error
    return error


def _completion(answer: Mapping) -> tuple[str, str, int, int]:
    """An answer's text, why it ended, and how many tokens were read and made."""
    try:
        (choice,), usage = answer["choices"], answer["usage"]
        text, end = choice["text"], choice["finish_reason"]
        read, new = usage["prompt_tokens"], usage["completion_tokens"]
        whole = isinstance(text, str) and isinstance(read, int) and isinstance(new, int)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise RequestFailed("no completion", short(json.dumps(answer)))
    if end not in _ENDS:
        raise RequestFailed("no completion", f"finish_reason is {end!r}")
    return text, end, read, new
