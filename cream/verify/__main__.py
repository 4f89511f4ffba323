"""Are the committed rows what this code computes? A random sample of them, computed again.

    python -m cream.verify                      # 40 rows of data/results; some seconds to 2 minutes
    python -m cream.verify --seed 7 --rows 200  # another sample, and more of it
    python -m cream.verify --train 1            # one of the grid's runs, trained again
    python -m cream.verify data/smollm2 --corpus runs/corpora/long-text   # on a GPU; --train, too

Rows of evaluations are compared whole (`rows`), a grid's answers by target, score and text,
of untuned models alone (`study`). Its tuned models, nearly all of its rows, are not kept: a
run that --train draws is trained again from its row and compared within limits; --plan says of
which plan (the runs of `tenth` are the shortest). Where the folder holds campaigns and no grid, a
run of theirs is trained again (`campaign`). Exit code 1, with a table of what differs, when a
row differs or none could be checked.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformers.utils import logging

from cream import notebook, results
from cream.study import records
from cream.verify import campaign, study
from cream.verify import rows as verify_rows
from cream.verify.rows import CORPUS, Checked

__all__ = ["main"]


def _report(checked: Checked, total: int, what: str) -> str:
    rows, lines = checked.rows, []
    for (run, task), part in rows.groupby(["run", "task"], sort=False):
        lines.append(f"  computed again: {run}, {task}: {len(part)}")
    lines += [f"  not checked: {one.what} ({one.rows:,}, {one.rows / total:.1%}): {one.why}"
              for one in checked.unchecked]  # fmt: skip
    wrong = checked.differing["row"].nunique()
    if wrong:
        with pd.option_context("display.max_colwidth", 60, "display.width", 200):
            table = checked.differing.to_string(index=False)
        lines += [f"{wrong} of {len(rows)} rows differ from what was committed:", table]
    elif len(rows):
        lines.append(f"All {len(rows)} are as committed: {what}.")
    else:
        lines.append(f"None of {total} rows could be checked.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the rows named on the command line; return 0 when what was computed is the same."""
    parser = argparse.ArgumentParser(prog="python -m cream.verify", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("paths", nargs="*", default=["data/results"], help="files or folders")
    parser.add_argument("--rows", type=int, default=40, help="how many (default: 40)")
    parser.add_argument("--seed", type=int, help="of the sample; a new one each time by default")
    parser.add_argument("--train", type=int, default=0, help="the grid's runs to train again")
    parser.add_argument("--plan", help="of those runs, such as tenth")
    parser.add_argument("--corpus", default=CORPUS, help=f"texts of 01_data (default: {CORPUS})")
    given = parser.parse_args(arguments)
    root = notebook.find_root()
    logging.disable_progress_bar()
    seed = secrets.randbelow(10_000) if given.seed is None else given.seed
    try:
        done = (_trained if given.train else _recompute)(given, root, seed)
    except (OSError, ValueError) as error:
        print(f"cream.verify: {error}", file=sys.stderr)
        return 1
    same = not any(len(one.differing) for one in done)
    return 0 if same and any(len(one.rows) for one in done) else 1


def _recompute(given: argparse.Namespace, root: Path, seed: int) -> list[Checked]:
    """Ask a sample of the rows again, of evaluations and of a grid."""
    paths, bar = [root / path for path in given.paths], sys.stderr.isatty()
    found, done = results.read(*[path for path in paths if not _is_grid(path)]), []
    found = found[~found["task"].str.match("speed_|check_")]  # times are not computed again
    if len(found):
        print(f"{given.rows} of {len(found):,} rows, chosen by --seed {seed}", flush=True)
        checked = verify_rows.verify(found, root, given.rows, seed, given.corpus, bar)
        print(_report(checked, len(found), "key, prompt, prediction and scores"), flush=True)
        done.append(checked)
    if place := records.find_grid(*paths):
        answers = records.read(place)
        print(f"{given.rows} of {len(answers):,} answers of the grid, by --seed {seed}", flush=True)
        checked = study.verify_grid(answers, root, given.rows, seed, bar)
        print(_report(checked, len(answers), "targets, scores and texts"), flush=True)
        done.append(checked)
    return done


def _trained(given: argparse.Namespace, root: Path, seed: int) -> list[Checked]:
    """Train runs of the grid, or of campaigns, again; ValueError for no such plan."""
    place = records.find_grid(*[root / path for path in given.paths])
    if place is None:
        return [_campaigns(root / path, given.train, root, seed) for path in given.paths]
    answers = records.read(place)
    answers = answers[answers["steps"] > 0]
    if given.plan is not None:
        plans = sorted(answers["plan"].unique())
        answers = answers[answers["plan"] == given.plan]
        if answers.empty:
            raise ValueError(f"the grid has no tuned run of {given.plan!r}: {', '.join(plans)}")
    runs = answers["key"].nunique()
    print(f"{given.train} of {runs:,} tuned runs, by --seed {seed}", flush=True)
    checked = study.train_again(answers, root, given.train, seed)
    limits = ", ".join(f"{name} {most}" for name, most in study.LIMITS.items())
    print(_report(checked, runs, f"within {limits}"), flush=True)
    return [checked]


def _campaigns(folder: Path, number: int, root: Path, seed: int) -> Checked:
    """Train runs of a folder of campaigns again; ValueError where it holds none."""
    print(f"{number} of the runs in {folder.name}, by --seed {seed}", flush=True)
    checked = campaign.train_again(folder, root, number, seed)
    limits = ", ".join(f"{name} {most}" for name, most in campaign.LIMITS.items())
    print(_report(checked, len(checked.rows), f"within {limits}"), flush=True)
    return checked


def _is_grid(path: Path) -> bool:
    return path.is_file() and records.find_grid(path) is not None


if __name__ == "__main__":
    sys.exit(main())
