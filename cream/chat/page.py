"""The conversation on a page by gradio: a file drop, tokens used of L, and the original beside it.

    serve(chat, original, "127.0.0.1", 7860)

What belongs here: what the page shows, and who can reach it. Nothing is fetched from the network:
fonts are the browser's own, gradio's analytics and share links are off, and a Content-Security-
Policy keeps the browser from asking any other host. What a model or a file says is escaped text in
`page_html`; no Markdown or HTML of theirs is shown as such.
"""

import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402  (it reads that setting as it is imported)
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

from cream.chat import page_html  # noqa: E402
from cream.chat.conversation import Chat, TextFile  # noqa: E402
from cream.chat.models import ChatModel  # noqa: E402
from cream.chat.streaming import Answers, Reading  # noqa: E402

__all__ = ["build", "check_address", "is_loopback", "launch", "serve"]

POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
MOST_FILE = "64mb"
OFTEN = 0.1  # seconds between two drawings of an answer that grows
_KEPT = 3600  # seconds after which dropped files are removed from gradio's folder


@dataclass
class _Session:
    """One browser tab: a conversation a model, and the way to stop the answer being generated."""

    chats: list[Chat]
    notes: list[str]  # of each model: what is going on, or went wrong
    stop: threading.Event = field(default_factory=threading.Event)


class _Sessions:
    """Conversations by browser tab; the models and their caches are shared."""

    def __init__(self, chats: list[Chat]) -> None:
        self.first = chats
        self._of: dict[str, _Session] = {}

    def of(self, request: gr.Request) -> _Session:
        name = str(request.session_hash)
        if name not in self._of:
            chats = [Chat(one.model, one.answer_tokens, one.answers) for one in self.first]
            self._of[name] = _Session(chats, [""] * len(chats))
        return self._of[name]

    def leave(self, request: gr.Request) -> None:
        """Forget a tab that was closed, and stop its answer."""
        if session := self._of.pop(str(request.session_hash), None):
            session.stop.set()


class _Policy:
    """Adds the Content-Security-Policy to every answer of the server."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode()),
                       (b"referrer-policy", b"no-referrer")]  # fmt: skip
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        await self.app(scope, receive, with_policy)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host's address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """Raise OSError for an address that cannot be served at; warn of one that others reach."""
    if not 0 < port < 65_536:
        raise ValueError(f"port {port} must be from 1 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise OSError(
                f"nothing can be served at {host}, port {port} ({error.strerror}): choose another "
                "with --port or --host"
            ) from None
    if not is_loopback(host):
        print(
            f"WARNING: --host {host} lets everyone who reaches this machine read files they drop "
            "and use the model, without a password and unencrypted. 127.0.0.1 with an SSH tunnel "
            "is safer."
        )


def beside(chat: Chat, original: ChatModel) -> Chat:
    """Return the original's conversation; an answer takes at most half of its smaller L."""
    most = min(chat.answer_tokens, max(1, original.limit // 2))
    return Chat(original, most, Answers(original.model, original.tokenizer))


def serve(chat: Chat, original: ChatModel | None, host: str, port: int) -> None:
    """Serve the page until Ctrl-C."""
    chats = [chat]
    if original:
        chats.append(beside(chat, original))
        if (most := chats[1].answer_tokens) < chat.answer_tokens:
            print(f"the original answers in at most {most:,} tokens, half of its L; "
                  f"{chat.model.name} in {chat.answer_tokens:,}")  # fmt: skip
    page = build(chats)
    url = launch(page, host, port)
    print(f"{url}  (Ctrl-C ends)")
    with contextlib.suppress(KeyboardInterrupt):
        page.block_thread()
    page.close(verbose=False)


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Start serving a page in the background; return its address."""
    layers = [Middleware(_Policy)]
    if is_loopback(host) and ":" not in host:  # no page of another name may ask this server
        known = [host, "localhost", "127.0.0.1"]
        layers.append(Middleware(TrustedHostMiddleware, allowed_hosts=known))
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        max_file_size=MOST_FILE,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        app_kwargs={"middleware": layers, "docs_url": None, "redoc_url": None},
        theme=gr.themes.Base(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=page_html.STYLE,
    )
    return url


def build(chats: list[Chat]) -> gr.Blocks:
    """Lay out the page for one model, or for an extended one and its original."""
    sessions = _Sessions(chats)
    title = f"cream.chat: {chats[0].model.name}"
    with gr.Blocks(analytics_enabled=False, title=title, fill_width=True,
                   delete_cache=(_KEPT, _KEPT)) as page:  # fmt: skip
        gr.HTML(page_html.heading([one.model for one in chats]))
        with gr.Row(equal_height=False):
            with gr.Column(scale=0, min_width=250):
                drop = gr.File(label="Text file", show_label=False, elem_id="drop", height=120)
                side = gr.HTML(page_html.sidebar(chats), elem_id="side")
                new = gr.Button("New conversation", elem_id="new", size="sm")
            panels = [
                gr.HTML(page_html.panel(one), elem_id=f"panel-{place}", elem_classes="panel-box",
                        autoscroll=True, scale=1)
                for place, one in enumerate(chats)
            ]  # fmt: skip
        with gr.Row(equal_height=True):
            question = gr.Textbox(
                show_label=False, container=False, lines=2, max_lines=2, scale=1, autofocus=True,
                elem_id="question", placeholder=page_html.placeholder(chats[0].model),
            )  # fmt: skip
            send = gr.Button("Ask", variant="primary", scale=0, min_width=90, elem_id="ask")
            stop = gr.Button("Stop", scale=0, min_width=90, elem_id="stop")
        _connect(page, sessions, drop, side, new, panels, question, send, stop)
    return page


def _connect(
    page: gr.Blocks,
    sessions: _Sessions,
    drop: gr.File,
    side: gr.HTML,
    new: gr.Button,
    panels: list[gr.HTML],
    question: gr.Textbox,
    send: gr.Button,
    stop: gr.Button,
) -> None:
    """Say what each part of the page does."""

    def ask(words: str, request: gr.Request) -> Iterator[list[str]]:
        yield from ([*drawn] for drawn in _asked(sessions.of(request), words))

    def add(path: str | None, request: gr.Request) -> list[str | None]:
        return [None, _added(sessions.of(request), path)]

    def begin(request: gr.Request) -> list[str]:
        session = sessions.of(request)
        session.stop.set()
        for chat in session.chats:
            chat.new()
        session.notes = [""] * len(session.chats)
        return _drawn(session)

    def halt(request: gr.Request) -> None:
        sessions.of(request).stop.set()

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [side, *panels]
    gr.on([send.click, question.submit], ask, question, [question, *shown], **quiet)
    drop.upload(add, drop, [drop, side], **quiet)
    new.click(begin, None, shown, **quiet)
    stop.click(halt, None, None, **quiet)
    page.unload(sessions.leave)


def _drawn(session: _Session, notice: str = "") -> list[str]:
    panels = map(page_html.panel, session.chats, session.notes)
    return [page_html.sidebar(session.chats, notice), *panels]


def _added(session: _Session, path: str | None) -> str:
    """Read a dropped file into every conversation; return the sidebar."""
    notice = ""
    try:
        if path is not None:
            file = TextFile.read(path)
            for chat in session.chats:
                chat.add(file)
            notice = f"{file.name} goes with the next question."
    except (OSError, ValueError) as error:
        said = str(error).replace(str(path), Path(path or "").name)
        return page_html.sidebar(session.chats, said, refused=True)
    return page_html.sidebar(session.chats, notice)


def _asked(session: _Session, words: str) -> Iterator[list[str]]:
    """Ask every model the same, one after the other; yield what the page shows meanwhile."""
    session.stop.clear()
    for place, chat in enumerate(session.chats):
        session.notes = [""] * len(session.chats)
        try:
            pieces = chat.ask(words, session.stop)
        except (ValueError, MemoryError) as error:
            if place == 0:  # refused for all, and the question is left to be changed
                panels = map(page_html.panel, session.chats, session.notes)
                yield [words, page_html.sidebar(session.chats, str(error), refused=True), *panels]
                return
            session.notes[place] = f"Not asked: {error}"
            yield ["", *_drawn(session)]
            return
        session.notes[place + 1 :] = ["waiting for its turn"] * (len(session.chats) - place - 1)
        yield from _growing(session, place, pieces)
        if session.stop.is_set():
            session.notes = ["stopped" if one == place else "" for one in range(len(session.chats))]
            break
    else:
        session.notes = [""] * len(session.chats)
    yield ["", *_drawn(session)]


def _growing(
    session: _Session, place: int, pieces: Iterator[str | Reading]
) -> Iterator[list[str]]:
    """Yield the page while one model answers; its own panel alone a few times a second."""
    said, at = "", 0.0
    rest = [gr.skip()] * (1 + len(session.chats))
    with contextlib.closing(pieces):
        try:
            for piece in pieces:
                if isinstance(piece, Reading):
                    session.notes[place] = f"reading {piece.done:,} of {piece.tokens:,} tokens"
                else:
                    said += piece
                    session.notes[place] = "answering"
                if not at:
                    yield ["", *_drawn(session)]
                if time.monotonic() - at >= OFTEN:
                    at = time.monotonic()
                    now = page_html.panel(session.chats[place], session.notes[place], said)
                    yield ["", *rest[: 1 + place], now, *rest[2 + place :]]
        except (RuntimeError, ValueError, MemoryError) as error:
            session.notes[place] = f"Failed: {error}"
            session.stop.set()
