"""Every figure that a set of rows can give, and what is missing for the others.

`notebooks/09_figures.ipynb` draws and writes what this finds; a figure itself belongs in `plots`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cream import heatmaps, plots
from cream.positions import sampler
from cream.results import drawn_from, variant

__all__ = ["draw", "find_metrics", "method_pictures", "missing", "write"]

TASKS = {
    "longchat_lines": "03_longchat_lines",
    "kv_retrieval": "04_lost_in_the_middle",
    "needle": "05_needle",
    "passkey": "05_needle",
    "perplexity": "07_perplexity",
}
PICTURED = ("plain", "randpos", "pose", "full", "cream")


def draw(
    rows: pd.DataFrame, paper: str | Path, metrics: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, Figure]:
    """Return the figures that `rows` and `metrics` give, by name.

    `paper` is the folder of published numbers, `metrics` as for `plots.training_curves`. A task
    with several variants, or places at several scales, gives a figure each.
    """
    found = {}
    for task in TASKS:
        of_task = rows[rows["task"] == task]
        forms = variant(of_task)
        for form in sorted(forms.unique()):
            suffix = f"-{form.replace(' ', '-')}" if forms.nunique() > 1 else ""
            for name, figure in _of_task(task, of_task[forms == form], Path(paper)):
                found[name + suffix] = figure
    if metrics:
        found["training_curves"] = plots.training_curves(metrics)
    return found


def _of_task(task: str, rows: pd.DataFrame, paper: Path) -> Iterator[tuple[str, Figure]]:
    if task == "longchat_lines":
        yield task, plots.accuracy_by_length(rows, plots.read_published(paper, task))
    elif task == "needle":
        yield task, heatmaps.needle_heatmap(rows, "score", plots.read_published(paper, task))
    elif task == "passkey":
        yield task, heatmaps.passkey_by_length(rows)
    elif task == "perplexity":
        yield task, plots.perplexity_by_length(rows)
    else:
        published = plots.read_published(paper, "lost_in_the_middle")
        extensions = plots.extensions(rows)
        for scaling, scale in extensions:
            suffix = f"-{scaling}-x{scale}" if len(extensions) > 1 else ""
            theirs = published[published["scaling"] == scaling]
            ours = plots.of_extension(rows, (scaling, scale))
            figure = plots.accuracy_by_position(ours, theirs if len(theirs) else None)
            yield f"lost_in_the_middle{suffix}", figure


def missing(rows: pd.DataFrame, metrics: Mapping[str, pd.DataFrame] | None = None) -> list[str]:
    """Return a line for each figure that cannot be drawn, with the notebook that would help."""
    lines = [
        f"no rows of {task}: run notebooks/{notebook}.ipynb"
        for task, notebook in TASKS.items()
        if task not in set(rows["task"])
    ]
    return lines + ([] if metrics else ["no training metrics: run notebooks/02_train.ipynb"])


def find_metrics(rows: pd.DataFrame, root: Path, *folders: Path) -> dict[str, pd.DataFrame]:
    """Return the training metrics of the models in `rows`, by method; one run a method.

    They lie in the run's own folder under `root`, or are kept beside the rows in one of `folders`
    as metrics/METHOD.jsonl.
    """
    found: dict[str, pd.DataFrame] = {}
    for method, run in rows[["method", "run"]].dropna().drop_duplicates().itertuples(index=False):
        kept = [folder / "metrics" / f"{method}.jsonl" for folder in folders]
        for path in (root / run / "metrics.jsonl", *kept):
            if method not in found and path.is_file():
                found[method] = plots.training_metrics(path)
    return found


def method_pictures(window: int = 4096, scale: int = 8) -> dict[str, Figure]:
    """Return the figures of the samplers themselves; they need no rows."""
    samplers = {name: sampler(name, window, scale) for name in PICTURED}
    # Long enough for every sampler, full length among them.
    num_tokens = window * scale + window
    return {
        "indices": plots.indices_picture(samplers, num_tokens),
        "distance_coverage": plots.distance_coverage(samplers, num_tokens),
        "middle_histogram": plots.middle_histogram(window),
    }


def write(
    figures: Mapping[str, Figure], out: str | Path, rows: pd.DataFrame | None = None
) -> list[str]:
    """Write each figure as PNG and PDF into `out`, marked with what it was drawn from.

    Return the names of the PNG files.
    """
    meta = {"drawn from": "cream.positions"} if rows is None else drawn_from(rows)
    return [plots.save(figure, Path(out) / name, meta)[0].name for name, figure in figures.items()]
