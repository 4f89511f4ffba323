"""Every figure that rows can give, and what is missing for the others.

`notebooks/09_figures.ipynb` and `10_ablations.ipynb` draw and write what this finds; a figure
itself belongs in `plots.evaluations`, `plots.needle`, `plots.published`, `study.analysis.tables`
or `plots.positions`. Each figure carries the hash of what it was drawn from, and the commit that
made it, into its files.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cream.performance import costs
from cream.performance import figures as performance_figures
from cream.plots import evaluations, needle, positions, published, ruler
from cream.plots.style import save
from cream.positions import METHODS, sampler
from cream.results import drawn_from, variant
from cream.results.published import read_published
from cream.study import training_data
from cream.study.analysis import contrasts, distances
from cream.study.figures import curves, exposure, overview
from cream.study.figures import forest as figures_forest
from cream.tasks import ruler_scores
from cream.tasks.registry import reported
from cream.utils import forks

__all__ = [
    "ELSEWHERE",
    "GRID",
    "draw",
    "find_metrics",
    "from_counts",
    "from_grid",
    "from_paper",
    "from_speed",
    "grid_source",
    "method_pictures",
    "missing",
    "show",
    "write",
]

PICTURED = ("plain", "randpos", "pose", "full", "cream")
# Figures of a grid, and which of them only 10_ablations draws.
GRID = ("summary", "claims", "grid_lines", "grid_pairs", "grid_needle", "grid_perplexity",
        "ablations", "ablation_sigma", "scale64", "scale64_lines", "scale64_perplexity",
        "dense", "ablation_ends", "learning_rates", "assigned_distances")  # fmt: skip
ELSEWHERE = GRID[-4:]
AT_ONCE = 4


def _mark(figure: Figure, **drawn: str) -> Figure:
    figure.drawn = {name.rstrip("_"): text for name, text in drawn.items()}
    return figure


# ---------------------------------------------------------------------------- from rows of answers


def draw(
    rows: pd.DataFrame, paper: str | Path, metrics: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, Figure]:
    """Return the figures that `rows` and `metrics` give, by name.

    `paper` is the folder of published numbers, `metrics` as for `plots.training_curves`. A task
    with several variants, or places at several scales, gives a figure each.
    """
    found = {}
    for task in reported():
        of_task = rows[rows["task"] == task]
        forms = variant(of_task)
        for form in sorted(forms.unique()):
            suffix = f"-{form.replace(' ', '-')}" if forms.nunique() > 1 else ""
            part = of_task[forms == form]
            for name, figure in _of_task(task, part, Path(paper)):
                found[name + suffix] = _mark(figure, **drawn_from(part))
    found |= _of_ruler(rows[ruler_scores.is_ruler(rows)])
    if metrics:
        marked = {**drawn_from(rows), "rows": _hash_of_frames(metrics.values())}
        found["training_curves"] = _mark(evaluations.training_curves(metrics), **marked)
    return found


def _of_task(task: str, rows: pd.DataFrame, paper: Path) -> Iterator[tuple[str, Figure]]:
    if task == "longchat_lines":
        yield task, evaluations.accuracy_by_length(rows, read_published(paper, task))
    elif task == "needle":
        yield task, needle.needle_heatmap(rows, "score", read_published(paper, task))
    elif task == "passkey":
        yield task, needle.passkey_by_length(rows)
    elif task == "perplexity":
        yield task, evaluations.perplexity_by_length(rows)
    else:
        theirs = read_published(paper, "lost_in_the_middle")
        extensions = evaluations.extensions(rows)
        for scaling, scale in extensions:
            suffix = f"-{scaling}-x{scale}" if len(extensions) > 1 else ""
            of_scaling = theirs[theirs["scaling"] == scaling]
            ours = evaluations.of_extension(rows, (scaling, scale))
            figure = evaluations.accuracy_by_position(ours, of_scaling if len(of_scaling) else None)
            yield f"lost_in_the_middle{suffix}", figure


def _of_ruler(rows: pd.DataFrame) -> dict[str, Figure]:
    """RULER's heat map, one a form and window; none where nobody asked."""
    found, parts = {}, list(rows.groupby([variant(rows), "window"]))
    for (form, window), part in parts:
        suffix = f"-{form.replace(' ', '-')}-{window}" if len(parts) > 1 else ""
        found[f"ruler{suffix}"] = _mark(ruler.task_heatmap(part), **drawn_from(part))
    return found


def missing(rows: pd.DataFrame, metrics: Mapping[str, pd.DataFrame] | None = None) -> list[str]:
    """Return a line for each figure that cannot be drawn, with the notebook that would help."""
    lines = [
        f"no rows of {task}: run notebooks/{entry.notebook}.ipynb"
        for task, entry in reported().items()
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
                found[method] = evaluations.training_metrics(path)
    return found


# ------------------------------------------------------------------------- from published numbers


def from_paper(
    rows: pd.DataFrame,
    paper: str | Path,
    grid: pd.DataFrame | None = None,
    drawn: Mapping[str, str] | None = None,
) -> dict[str, Figure]:
    """Return the paper's own figures and tables, drawn again, with what we have beside them.

    Beside its lines and pairs stand those of a `grid` (of `study.analysis.tables.load`; the
    primary plan, text alone as the paper's), `drawn` going into their files, or without one those
    of `rows`.
    """
    paper, of_grid = Path(paper), {}
    ours = rows
    if grid is not None and len(grid):
        alike = (grid["plan"] == "primary") & grid["condition"].isin(["text", "none"])
        ours, of_grid = grid[alike], dict(drawn or {})
    lines, pairs = (ours[ours["task"] == task] for task in ("longchat_lines", "kv_retrieval"))
    long = rows[rows["task"].str.startswith("longbench-")]
    found = {
        "paper_longchat_lines": (published.longchat_lines(paper, lines), lines, ["longchat_lines"]),
        "paper_lost_in_the_middle": (
            published.lost_in_the_middle(paper, pairs), pairs, ["lost_in_the_middle"],
        ),
        "paper_longbench": (
            published.longbench(paper, long), long, ["longbench_categories", "longbench_tasks"],
        ),
        "paper_clex": (
            published.clex(paper, long), long, ["longbench_clex", "infinitebench_clex"],
        ),
        "paper_perplexity": (published.perplexity(paper), None, ["perplexity_clex"]),
    }  # fmt: skip
    for figure, beside, names in found.values():
        hashed = file_hash(*(paper / f"{name}.csv" for name in names))
        if beside is None or beside.empty:
            _mark(figure, rows=hashed, commit=_commit_of(paper, *(f"{n}.csv" for n in names)))
        else:
            source = of_grid if "plan" in beside else drawn_from(beside)
            _mark(figure, **source, paper=hashed)
    return {name: figure for name, (figure, _, _) in found.items()}


def from_speed(rows: pd.DataFrame) -> dict[str, Figure]:
    """Return what a training step costs by target length, one figure of every card and shape.

    `rows` as they lie in the files: `results.current` takes CREAM's rows, alike in all but their
    targets' settings, for one another. ValueError where a card lacks CREAM or full length.
    """
    measured = rows[rows["task"].isin(["speed_efficiency", "speed_optimizer"])]
    if measured.empty:
        return {}
    table = costs.by_target(measured)
    for (card, shape), part in table.groupby(["card", "shape"]):
        if not {"cream", "full"} <= set(part["method"]):
            raise ValueError(
                f"the rows of {shape} on {card} lack CREAM or full length; give all rows of the "
                "files (results.read), not those that results.current keeps"
            )
    return {"efficiency": _mark(performance_figures.by_target(table), **drawn_from(measured))}


def file_hash(*paths: Path) -> str:
    """Return 16 hex digits of the files' SHA-256; of one file, those that data/README.md lists."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _hash_of_frames(frames: Iterable[pd.DataFrame]) -> str:
    text = "".join(frame.to_json(orient="records") for frame in frames)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _commit_of(folder: Path, *names: str) -> str:
    """The last commit that changed these files; "unknown" outside git."""
    git = ["git", "-C", str(folder), "log", "-1", "--format=%h", "--abbrev=12", "--", *names]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.strip() or "unknown"


# ------------------------------------------------------------------------------ from a grid's runs


def from_grid(
    frame: pd.DataFrame,
    runs: pd.DataFrame,
    paper: str | Path,
    drawn: Mapping[str, str],
    shown: Mapping | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Figure]:
    """Return the figures that a grid's rows give, by name; those of plans that were not run lack.

    `frame` and `runs` are of `study.analysis.tables.load`, `shown` is what
    `study.training_data.read` gives. `drawn` (rows, commit) goes into their files: see
    `grid_source`. `names` draws these alone (`GRID` has all); ValueError for one that there is not.
    """
    if unknown := set(names or ()) - set(GRID):
        raise ValueError(f"there is no figure {', '.join(sorted(unknown))}; there are {GRID}")
    if frame.empty:
        return {}
    makers = _makers(frame, runs, published.endpoints(paper), training_data.flagged(shown or {}))
    chosen = {name: makers[name] for name in (GRID if names is None else names)}
    return {name: _mark(figure, **drawn) for name, figure in _drawable(chosen)}


def _makers(
    frame: pd.DataFrame, runs: pd.DataFrame, paper: Mapping, flagged: Mapping
) -> dict[str, Callable[[], Figure]]:
    """What draws each of `GRID`."""

    def forest(plan: str, numbers: Mapping | None = None) -> Figure:
        if not (runs["plan"] == plan).any():
            raise figures_forest.NotRun(f"the plan {plan} has no runs")
        return figures_forest.forest(contrasts.contrasts(runs, (plan,), flagged), "", numbers)

    return {
        "summary": lambda: overview.summary(frame, runs, flagged=flagged),
        "claims": lambda: forest("primary", paper),
        "grid_lines": lambda: curves.by_length(frame, "primary"),
        "grid_pairs": lambda: curves.by_place(frame, "primary"),
        "grid_needle": lambda: curves.by_depth(frame, "primary"),
        "grid_perplexity": lambda: curves.by_perplexity(frame, "primary"),
        "ablations": lambda: forest("ablations"),
        "dense": lambda: forest("dense"),
        "ablation_sigma": lambda: curves.by_option(runs, "sigma"),
        "ablation_ends": lambda: curves.by_option(runs, "ends"),
        "learning_rates": lambda: curves.by_learning_rate(runs),
        "scale64": lambda: forest("scale64"),
        "scale64_lines": lambda: curves.by_length(frame, "scale64"),
        "scale64_perplexity": lambda: curves.by_perplexity(frame, "scale64"),
        "assigned_distances": lambda: _prediction(frame),
    }


def from_counts(*sources: Path) -> dict[str, Figure]:
    """Return the figure of answerable queries, where a folder of `sources` has their counts."""
    for source in sources:
        path = (source if source.is_dir() else source.parent) / training_data.NAME
        if path.is_file():
            counts = training_data.read(path)
            drawn = {"rows": file_hash(path), "commit": counts.get("commit", "unknown")}
            return {"query_distances": _mark(exposure.query_distances(counts), **drawn)}
    return {}


def show(figures: Mapping[str, Figure], *names: str) -> None:
    """Display figures in a notebook, and say of each that is not there that it was not run."""
    from IPython.display import display

    for name in names:
        if name in figures:
            display(figures[name])
        else:
            print(f"{name}: not run")


def _drawable(makers: Mapping[str, Callable[[], Figure]]) -> Iterator[tuple[str, Figure]]:
    for name, make in makers.items():
        try:
            yield name, make()
        except figures_forest.NotRun:
            continue


def _prediction(frame: pd.DataFrame) -> Figure:
    rows = frame[frame["plan"].isin(["primary", "ablations"])]
    accuracy = distances.by_distance(rows) if len(rows) else rows
    if accuracy.empty:
        raise figures_forest.NotRun("no answers by distance: run the plan primary")
    histogram = distances.assigned(distances.samplers_of(rows))
    drawn = accuracy[accuracy["variant"].isin(METHODS)]  # of variants there are too many
    return distances.picture(drawn, histogram, int(rows["scale"].max()))


def grid_source(path: Path, frame: pd.DataFrame) -> dict[str, str]:
    """Return what figures from a grid carry: the file's hash, and the commits of its rows."""
    commits = sorted({each[:7] for each in frame["commit"].dropna().unique()})
    return {"rows": file_hash(path), "commit": ", ".join(commits) or "unknown"}


# ---------------------------------------------------------------------------------- from samplers


def method_pictures(window: int = 4096, scale: int = 8) -> dict[str, Figure]:
    """Return the figures of the samplers themselves; they need no rows."""
    samplers = {name: sampler(name, window, scale) for name in PICTURED}
    # Long enough for every sampler, full length among them.
    num_tokens = window * scale + window
    found = {
        "indices": positions.indices_picture(samplers, num_tokens),
        "distance_coverage": positions.distance_coverage(samplers, num_tokens),
        "distance_coverage-x64": positions.coverage_far(),
        "middle_histogram": positions.middle_histogram(window),
    }
    commit = _commit_of(Path(positions.__file__).parents[1], "positions", "plots/positions.py")
    drawn = {"rows": "none: drawn from cream.positions", "commit": commit}
    return {name: _mark(figure, **drawn) for name, figure in found.items()}


def write(figures: Mapping[str, Figure], out: str | Path) -> list[str]:
    """Write each figure as PNG and PDF into `out`, marked with what it was drawn from.

    Return the names of the PNG files. On Linux several are written at a time, by copies of this
    process, which have the figures already.
    """

    def written(name: str) -> str:
        return save(figures[name], Path(out) / name, figures[name].drawn)[0].name

    return forks.mapped(written, list(figures), AT_ONCE)
