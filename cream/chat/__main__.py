"""Talk to a model: `python -m cream.chat RUN` in this terminal, or `--web` on a page.

    python -m cream.chat runs/cream
    python -m cream.chat scaled:yarn:8 --base smollm2-135m --web

RUN is a run's folder, a checkpoint, an adapter or a base; the page shows beside it the model that
it was made from. Relative folders start at the project's folder, or else where you are.
"""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cream import notebook
from cream.chat.conversation import Chat
from cream.chat.models import open_model, open_original, original_of
from cream.chat.terminal import talk

__all__ = ["main"]

HOST, PORT = "127.0.0.1", 7860  # of the page


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cream.chat",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="the model to talk to")
    parser.add_argument("--base", help="what an adapter belongs to, or original and scaled mean; "
                        "of a run it is known")  # fmt: skip
    parser.add_argument("--answer-tokens", type=int, default=0, metavar="TOKENS",
                        help="most of an answer (default: a quarter of L up to 512)")  # fmt: skip
    parser.add_argument("--web", action="store_true", help="a page instead of this terminal")
    parser.add_argument("--port", type=int, help=f"of the page (default {PORT})")
    parser.add_argument("--host",
                        help="address the page is served at (default 127.0.0.1: this machine "
                        "alone; 0.0.0.0 lets in whoever reaches it)")  # fmt: skip
    parser.add_argument("--no-original", action="store_true",
                        help="leave out the original model beside it on the page")  # fmt: skip
    return parser


def _root(run: str) -> Path:
    """The project's folder; of a RUN that is a folder only from here, the working directory."""
    root = notebook.find_root()
    return Path.cwd() if Path(run).is_dir() and not (root / run).is_dir() else root


def _web(options: argparse.Namespace, root: Path) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ModuleNotFoundError(
            "the page needs gradio, which is not installed: pip install -c constraints.txt -e "
            "'.[chat]', or leave out --web"
        )
    from cream.chat import page

    host = HOST if options.host is None else options.host
    port = PORT if options.port is None else options.port
    page.check_address(host, port)
    place, _ = original_of(options.run, options.base, root)
    chat = Chat(open_model(options.run, options.base, root), options.answer_tokens)
    original = None
    if options.no_original:
        print("the original model is left out (--no-original)")
    elif place is None:
        print("no original model beside it: RUN is one, or nothing tells its base (give --base)")
    else:
        original = open_original(options.run, options.base, root)
    page.serve(chat, original, host, port)


def _check_page_options(options: argparse.Namespace) -> None:
    """Refuse (ValueError) options of the page where there is none."""
    given = {"--port": options.port is not None, "--host": options.host is not None,
             "--no-original": options.no_original}  # fmt: skip
    if unread := [name for name, said in given.items() if said and not options.web]:
        raise ValueError(
            f"{', '.join(unread)} {'is' if len(unread) == 1 else 'are'} of the page, and --web is "
            "not given: add --web, or leave it out"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Talk to the model that the command line names."""
    options = _parser().parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        _check_page_options(options)
        root = _root(options.run)
        if options.web:
            _web(options, root)
        else:
            talk(Chat(open_model(options.run, options.base, root), options.answer_tokens))
    except (OSError, ValueError, MemoryError, ModuleNotFoundError) as error:
        sys.exit(f"chat: {error}")


if __name__ == "__main__":
    main()
