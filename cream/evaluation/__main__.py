"""An evaluation notebook's questions from a command line, in one process or in several.

    python -m cream.evaluation longchat_lines --models original,runs/x --rows runs/rows/lines.jsonl
    torchrun --nproc-per-node 2 -m cream.evaluation longchat_lines --models original,runs/x
    accelerate launch --multi_gpu --num_processes 2 -m cream.evaluation perplexity

A notebook runs in one process; its rows may come from many, each with a GPU of its own. The command
has the notebook's parameters and runs its cells, up to the one that evaluates the models: the
questions are written down once. The notebook, started afterwards with the same parameters, finds
every row there and draws its figures.
"""

import argparse
import ast
import contextlib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cream import notebook
from cream.evaluation import distributed
from cream.inference.server import Failed

__all__ = ["main", "run"]

TAG = "evaluation"  # of the cells that evaluate models

_COMMENT = re.compile(r"^(\w+)\b[^#]*#\s*(.+)$", re.M)


def run(name: str, parameters: dict[str, object], root: Path) -> dict[str, object]:
    """Run the cells of an evaluation notebook until its models are evaluated; return their names.

    `name` is the notebook's, without ending. Under a launcher only process 0 prints. Errors are
    those of the cells.
    """
    cells = _cells(root / "notebooks" / f"{name}.ipynb")
    silent = contextlib.redirect_stdout(io.StringIO())
    namespace: dict[str, object] = {"__name__": "__main__", "display": print}
    with silent if distributed.current().rank else contextlib.nullcontext():
        for number, (source, is_parameters) in enumerate(cells, 1):
            exec(compile(source, f"{name}.ipynb, code cell {number}", "exec"), namespace)
            if is_parameters:
                namespace.update(parameters)
    return namespace


def _cells(path: Path) -> list[tuple[str, bool]]:
    """The code cells to the last that evaluates models, and whether each is the parameters'."""
    code = _code(path)
    last = max((n for n, cell in enumerate(code, 1) if TAG in cell.tags), default=0)
    if last == 0:
        raise ValueError(f"{path.name} evaluates no models: no cell of it has the tag {TAG!r}")
    return [(cell.source, "parameters" in cell.tags) for cell in code[:last]]


def _code(path: Path) -> list[notebook.Cell]:
    return [cell for cell in notebook.cells(path) if cell.kind == "code"]


def _evaluations(root: Path) -> dict[str, str]:
    """Notebooks that evaluate models, by what they are called without their number."""
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {p.stem[3:]: p.stem for p in paths if any(TAG in cell.tags for cell in _code(p))}


def _parser(name: str, path: Path) -> argparse.ArgumentParser:
    """A parser with an option for each parameter that the notebook declares."""
    parser = argparse.ArgumentParser(prog=f"python -m cream.evaluation {name}", allow_abbrev=False,
                                     description=f"Ask the questions of {path.name}.")  # fmt: skip
    (source,) = [c.source for c in notebook.cells(path) if "parameters" in c.tags]
    comments = dict(_COMMENT.findall(source))
    for known in notebook.declared(path).values():
        said = f"{comments.get(known.name, '')} (default: {known.default})".replace("%", "%%")
        flags = dict.fromkeys([f"--{known.name}", f"--{known.name.replace('_', '-')}"])
        parser.add_argument(*flags, dest=known.name, default=argparse.SUPPRESS, metavar="VALUE",
                            help=said)  # fmt: skip
    return parser


def _value(text: str, parameter: notebook.Parameter) -> object:
    """What a parameter's text stands for; `notebook.begin` refuses what does not fit."""
    kinds = [] if parameter.kind is None else ast.unparse(parameter.kind).split(" | ")
    if text == "None" and "None" in kinds:
        return None
    if "str" in kinds:
        return text
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate the models of one notebook with its questions."""
    given, root = list(sys.argv[1:] if arguments is None else arguments), notebook.find_root()
    known = _evaluations(root)
    known |= {stem: stem for stem in known.values()}
    parser = argparse.ArgumentParser(prog="python -m cream.evaluation", description=main.__doc__)
    parser.add_argument("evaluation", choices=list(known), metavar="EVALUATION",
                        help=f"{', '.join(known)}; EVALUATION --help has its options")  # fmt: skip
    name = known[parser.parse_args(given[:1]).evaluation]
    path = root / "notebooks" / f"{name}.ipynb"
    options = vars(_parser(given[0], path).parse_args(given[1:]))
    declared = notebook.declared(path)
    parameters = {key: _value(text, declared[key]) for key, text in options.items()}
    try:
        run(name, parameters, root)
    except (Failed, OSError, ValueError) as error:
        sys.exit(f"{given[0]}: {error}")
    except ModuleNotFoundError as error:
        if error.name:  # an import failed, and nobody says what to install
            raise
        sys.exit(f"{given[0]}: {error}")
    finally:
        distributed.leave()


if __name__ == "__main__":
    main()
