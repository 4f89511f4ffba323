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
    parser.add_argument("--port", type=int, default=7860, help="of the page (default 7860)")
    parser.add_argument("--host", default="127.0.0.1",
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

    page.check_address(options.host, options.port)
    place, _ = original_of(options.run, options.base, root)
    chat = Chat(open_model(options.run, options.base, root), options.answer_tokens)
    original = None
    if options.no_original:
        print("the original model is left out (--no-original)")
    elif place is None:
        print("no original model beside it: RUN is one, or nothing tells its base (give --base)")
    else:
        original = open_original(options.run, options.base, root)
    page.serve(chat, original, options.host, options.port)


def main(arguments: Sequence[str] | None = None) -> None:
    """Talk to the model that the command line names."""
    options = _parser().parse_args(arguments)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        root = _root(options.run)
        if options.web:
            _web(options, root)
        else:
            talk(Chat(open_model(options.run, options.base, root), options.answer_tokens))
    except (OSError, ValueError, MemoryError, ModuleNotFoundError) as error:
        sys.exit(f"chat: {error}")


if __name__ == "__main__":
    main()
