"""SmolLM2-135M, the search of steps and learning rate: its page and figure, from rows alone.

    python -m cream.reproduction.smollm2.search data/smollm2-search

reads search.parquet (runs on text) and retrieval.parquet (with retrieval documents) and the metrics
beside them, writes SEARCH.md in the folder and figures/smollm2_search.png and .pdf. What belongs
here: which numbers stand on the page, and how they are said; the rules are `search_recipes`'.
Nothing is typed: what was not run is "not run".
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from cream import presets, results
from cream.plots.smollm2_search import sentences_by_rate
from cream.plots.style import save
from cream.reproduction.method_cells import NOT_RUN, lines_of, number, page
from cream.reproduction.paired import level
from cream.reproduction.smollm2.margin import BEYOND
from cream.reproduction.smollm2.search_recipes import (
    DECIDED,
    DOCUMENTS,
    KEYS,
    MORE,
    NEAR,
    PLANNED,
    PRESET,
    RECIPES,
    SEED,
    SEEDS,
    TEXT,
    check_split,
    chosen,
    gains,
    levels,
    read,
    spread,
    values,
    with_documents,
)
from cream.results import drawn_from
from cream.study.design import Recipe
from cream.utils.files import atomic_write

__all__ = ["drawn", "main", "markdown", "reason", "split_of"]

FIGURE, NOT_WHOLE = "smollm2_search", "not whole"
KNOWN = (Path("data/smollm2-seeds"), Path("data/smollm2-lora/rank16_3e-4.parquet"))  # see `main`


def _words(recipe: Recipe) -> str:
    return f"{recipe.steps} steps at {_rate(recipe.learning_rate)}"


def _rate(rate: float) -> str:
    """0.0002 as 2e-4."""
    return f"{rate:.0e}".replace("e-0", "e-")


SAID = [
    "Written by `python -m cream.reproduction.smollm2.search data/smollm2-search` from the rows in "
    "this folder; README.md here has the command of the runs.",
    "PoSE by YaRN, N = 8,192 tokens, L = 8 N. Recipes differ in steps and learning rate. Hidden "
    "sentences found in validation text, per cent, every depth and kind of text weighing alike. "
    f"Beyond N is the mean of {', '.join(BEYOND[:-1])} and {BEYOND[-1]}. **One base**, seeds "
    f"{SEEDS[0]} and {SEEDS[1]}.",
    "Fixed before the runs (data/results/PREREGISTRATION.md): the highest mean of both seeds "
    f"beyond N is chosen. Of recipes within {NEAR:g} points of it the one of fewest steps is "
    "chosen, then of the lowest rate. A recipe that lacks a seed or a length is *not whole* and is "
    f"not chosen. If another than {_words(PRESET)} is chosen the preset takes it. With retrieval "
    f"documents the recipe that text chose stays unless another finds {MORE:g} points more with "
    f"seed {SEED}. The primary verdicts stay those of their own recipe.",
    "Found beyond N (%):",
]  # fmt: skip


def markdown(found: pd.DataFrame, split: str) -> str:
    """Return the page: the recipes and the choice, seeds, retrieval documents, every run.

    `found` is of `values`, `split` a sentence that says how the split of its questions is known.
    """
    head = ["steps", "rate", *(f"seed {seed}" for seed in SEEDS), "mean", "training tokens",
            "choice"]  # fmt: skip
    lines = [_recipe(found, recipe) for recipe in RECIPES]
    title = "SmolLM2-135M, a search of steps and learning rate"
    parts = [page(title, [*SAID[:-1], split, SAID[-1]], head, lines), f"{_decision(found)}\n"]
    return "\n".join([*parts, _seeds(found), _documents(found), _runs(found)])


# --------------------------------------------------------------------- the choice


def _recipe(found: pd.DataFrame, recipe: Recipe) -> list[str]:
    """The line of a recipe on text."""
    runs = found[(found["corpus"] == TEXT) & _of(found, recipe)]
    mean = levels(found).loc[dataclasses.astuple(recipe), "mean"]
    tokens = f"{runs['tokens'].iloc[0] / 1e6:.1f} M" if len(runs) else NOT_RUN
    said = NOT_RUN if runs.empty else NOT_WHOLE if math.isnan(mean) else level(mean)
    cells = [_cell(runs[runs["seed"] == seed]) for seed in SEEDS]
    return [*_names(recipe), *cells, said, tokens, reason(found, recipe)]


def _of(found: pd.DataFrame, recipe: Recipe) -> pd.Series:
    """Which lines are of a recipe."""
    return (found["steps"] == recipe.steps) & (found["learning_rate"] == recipe.learning_rate)


def _names(recipe: Recipe) -> list[str]:
    return [str(recipe.steps), _rate(recipe.learning_rate)]


def _cell(run: pd.DataFrame) -> str:
    """What a run found beyond N, or what it lacks; `run` has one line or none."""
    if run.empty:
        return NOT_RUN
    lacks = run["lacks"].iloc[0]
    return f"lacks {', '.join(lacks)}" if lacks else level(run[DECIDED].iloc[0])


def reason(found: pd.DataFrame, recipe: Recipe) -> str:
    """Return why a recipe is chosen on text or is not, in the words of the page.

    `found` is of `values`.
    """
    means, key = levels(found)["mean"], dataclasses.astuple(recipe)
    if math.isnan(means[key]):
        return NOT_WHOLE if (_of(found, recipe) & (found["corpus"] == TEXT)).any() else NOT_RUN
    highest = Recipe(*means.idxmax())
    below = round(means.max() - means[key], 9)
    near = f"within {NEAR:g} points of the highest"
    if recipe != chosen(found):
        lower = near if below <= NEAR else f"{below:.1f} points below"
        return "highest" if recipe == highest else lower
    cheaper = "of fewer steps" if recipe.steps < highest.steps else "of a lower rate"
    return f"**chosen**: {'highest' if recipe == highest else f'{near}, {cheaper}'}"


def _taken(best: Recipe, preset: str = "smollm2-135m") -> str:
    """Whether the preset has the recipe that was chosen; else that it departs from the rule."""
    train = presets.get(preset).train
    if Recipe(train.steps, train.learning_rate) == best:
        return f"The preset takes it in place of {_words(PRESET)}."
    has = _words(Recipe(train.steps, train.learning_rate))
    return f"**The preset has {has}, which departs from the rule**; README.md here says why."


def _decision(found: pd.DataFrame) -> str:
    """What is chosen on text, and what it means for the preset."""
    best, means = chosen(found), levels(found)["mean"]
    if best is None:
        return "**No recipe is chosen**, because none is whole."
    said = "The preset's recipe stays." if best == PRESET else _taken(best)
    out = [_words(each) for each in RECIPES if math.isnan(means[dataclasses.astuple(each)])]
    return f"**{_words(best)} is chosen.** {said}" + (
        f" In no choice, because not whole or not run: {'; '.join(out)}." if out else ""
    )


def _seeds(found: pd.DataFrame) -> str:
    """What the spread of seeds lets this search tell."""
    return f"## What the search can tell\n\n{_told(found)}\n"


def _told(found: pd.DataFrame) -> str:
    one, best, means = spread(found), chosen(found), levels(found)["mean"]
    if not one.recipes:
        return "No recipe has both seeds whole, so how far seeds lie apart is not known."
    counted = f"{one.recipes} recipe{'s' * (one.recipes > 1)}"
    said = (
        f"The standard deviation of one seed is {one.deviation:.1f} points, pooled over {counted} "
        f"with both. So the means of two recipes are told apart from {one.tells:.1f} points on "
        "(95 %, Student's, every seed taken as independent, not corrected for the number of "
        "recipes)."
    )
    rest = [dataclasses.astuple(each) for each in (best, PRESET)]
    if best == PRESET or means[rest].isna().any():
        return said
    apart = round(means[rest[0]] - means[rest[1]], 9)
    tells = "tells" if abs(apart) >= one.tells else "does not tell"
    return (f"{said} The recipe that is chosen less the preset's is {apart:+.1f} points: the "
            f"search {tells} the two apart.")  # fmt: skip


# --------------------------------------------------------------------- retrieval documents


def _documents(found: pd.DataFrame) -> str:
    """Each recipe with retrieval documents, and whether the one that text chose stays."""
    text = chosen(found)
    less = gains(found, text)
    ran = found[found["corpus"] == DOCUMENTS]
    shown = [each for each in RECIPES if (each, SEED) in PLANNED[DOCUMENTS] or any(_of(ran, each))]
    lines = []
    for each in shown:
        run, more = ran[_of(ran, each) & (ran["seed"] == SEED)], less[dataclasses.astuple(each)]
        points = "" if each == text or math.isnan(more) else f"{more:+.1f}"
        said = "chosen on text" if each == text else ""
        lines.append([*_names(each), _cell(run), points, said])
    head = ["steps", "rate", f"seed {SEED}", "less text's choice (points)", ""]
    return (f"## With retrieval documents\n\nFound beyond N (%).\n\n{lines_of(head, lines)}\n\n"
            f"{_stays(found, text)}\n")  # fmt: skip


def _stays(found: pd.DataFrame, text: Recipe | None) -> str:
    """Whether the recipe that text chose stays with retrieval documents."""
    taken = with_documents(found, text)
    if text is None:
        return "**Not decided**: text chose no recipe."
    if taken is None:
        return f"**Not decided**: {_words(text)}, which text chose, was not run whole with them."
    if taken == text:
        return f"**{_words(text)} stays**: no other that was run whole finds {MORE:g} points more."
    more = gains(found, text)[dataclasses.astuple(taken)]
    return f"**{_words(taken)} is taken**: it finds {more:.1f} points more than {_words(text)}."


# --------------------------------------------------------------------- every run


def _runs(found: pd.DataFrame) -> str:
    """A line a run, also one that was planned and not run."""
    said = (
        "Sentences found (%). Training loss is the last that was logged, in nats a token, the mean "
        f"of the steps since the one before. What was not answered whole is *{NOT_RUN}*."
    )
    planned = [(corpus, *dataclasses.astuple(recipe), seed)
               for corpus, each in PLANNED.items() for recipe, seed in each]  # fmt: skip
    runs = {tuple(one[name] for name in KEYS): one for one in found.to_dict("records")}
    keys = [*planned, *(key for key in runs if key not in planned)]
    head = ["trained on", "steps", "rate", "seed", "n", *BEYOND, "training loss"]
    lines = [_run(key, runs.get(key, {})) for key in keys]
    return f"## Every run by length\n\n{said}\n\n{lines_of(head, lines)}\n"


def _run(key: tuple[str, int, float, int], one: dict[str, object]) -> list[str]:
    """The cells of a run; `one` is its line of `values`, empty where there is none."""
    corpus, steps, rate, seed = key
    n, loss = (one.get(name, math.nan) for name in ("n", "loss"))
    found = (level(one.get(name, math.nan), 0) for name in BEYOND)
    return [corpus, *_names(Recipe(steps, rate)), str(seed), "" if math.isnan(n) else f"{n:.0f}",
            *found, number(loss, "{:.3f}".format)]  # fmt: skip


# --------------------------------------------------------------------- the figure, the command


def drawn(found: pd.DataFrame) -> Figure | None:
    """Return the figure of the runs on text that are whole; None without one.

    `found` is of `values`.
    """
    runs = found[(found["corpus"] == TEXT) & found[DECIDED].notna()]
    if runs.empty:
        return None
    best = chosen(found)
    said = ("PoSE by YaRN on SmolLM2-135M, trained on text, asked sentences in validation text.",
            "Lines are means of both seeds, small marks are seeds.")  # fmt: skip
    table = runs.rename(columns={DECIDED: "value"}).astype({"value": float})
    return sentences_by_rate(table, len(SEEDS), best and dataclasses.astuple(best), said)


def split_of(rows: pd.DataFrame, test: Path, validation: Path) -> str:
    """Return how the split of the questions is known; ValueError where it is the test split.

    `rows` is of `read`, `test` and `validation` are rows whose split is known.
    """
    check_split(rows, results.read(test))
    asked = set(rows["prompt_hash"])
    known = asked & set(results.read(validation)["prompt_hash"])
    return (
        f"Rows do not name the split of a question. None of the {len(asked)} prompts is one that "
        f"{_last(test)} asked of test text. {len(known)} of them are prompts that "
        f"{_last(validation)} asked of validation text."
    )


def _last(path: Path) -> str:
    """The last two parts of a path, which are the same on every machine."""
    return "/".join(path.parts[-2:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the figure of the search of steps and learning rate."""
    parser = argparse.ArgumentParser(
        prog="python -m cream.reproduction.smollm2.search", description=main.__doc__
    )
    add = parser.add_argument
    add("rows", type=Path, help="the folder of the search")
    add("--test", type=Path, default=KNOWN[0],
        help="rows that answered test questions, which are refused")  # fmt: skip
    add("--validation", type=Path, default=KNOWN[1],
        help="rows that answered validation questions")  # fmt: skip
    add("--figures", type=Path, default=Path("figures"))
    given = parser.parse_args(arguments)
    rows = read(given.rows)
    if rows.empty:
        parser.error(f"{given.rows} holds no sentence beyond N of PoSE by YaRN with seeds "
                     f"{SEEDS[0]} and {SEEDS[1]}; publish the campaign there first")  # fmt: skip
    found, path = values(rows), given.rows / "SEARCH.md"
    atomic_write(path, markdown(found, split_of(rows, given.test, given.validation)))
    figure, text = drawn(found), rows[rows["corpus"] == TEXT]
    written = save(figure, given.figures / FIGURE, drawn_from(text)) if figure else []
    print(*[path, *written], sep="\n")


if __name__ == "__main__":
    main()
