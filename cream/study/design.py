"""The grid's design: which model is tuned how, on what, and asked what, in which order.

A plan is a list of runs; data/results/PREREGISTRATION.md says why these. Nothing here computes.
Order is part of the design: seeds follow each other, and all variants and bases of a seed stand
together, so that a grid that was cut is a smaller, balanced one; what says least comes last.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cream import rope
from cream.positions import Sampler, sampler
from cream.study.analysis.endpoints import units
from cream.study.conditions import (
    CONDITIONS,
    DENSE,
    SCALINGS,
    SHARPER,
    SHARPER_NAME,
    WIDER,
    WIDER_NAME,
    asked_as,
)
from cream.utils.provenance import hash_of

__all__ = ["BATCH", "PLANS", "RATES", "Recipe", "Run", "choose", "groups", "plan"]

BATCH = 32  # windows of N tokens a step, as in the paper; an example of L = sN counts for s
SCALE, LONG_SCALE = 8, 64
RATES = (1e-4, 3e-4, 1e-3)
STEPS = {"linear": (300, 1000), "ntk": (100, 300), "yarn": (100, 300)}
# Steps and rates that were added when all of these left linear at 0 (PREREGISTRATION, changes).
LONGER = {"linear": ((3000, 1e-3), (3000, 3e-3), (1000, 3e-3)), "ntk": (), "yarn": ()}
# By linear no recipe answers anything: from the third seed on its runs come last.
FIRST_SEEDS, RUN_FIRST, RUN_LAST = 2, ("ntk", "yarn"), ("linear",)
# Linear on more retrieval, longer: what was tried to bring it back (PREREGISTRATION, changes).
DENSE_STEPS, DENSE_RATES = (3000, 1500), (3e-4, 1e-3)
DENSE_CONDITIONS = ("dense-same",)  # where that did it
VALIDATION_SEEDS = (100, 101)
CHOICE_METHODS = ("cream", "pose")  # that choose by how much attention is sharper
RECIPE_MARGIN = 1.0  # points: a recipe must be better by more to cost more
RUNS_PER_GROUP = {"recipe": 3, "primary": 9, "sensitivity": 3, "ablations": 6, "scale64": 3,
            "tenth": 3, "dense-recipe": 1, "dense": 3, "margin": 5,
            "sharper-choice": 4, "sharper": 4, "tiny": 2}  # fmt: skip
TUNED = ("plain", "randpos", "pose", "cream", "full")
SETTINGS = 1  # raised when what a run does changes, so that old rows are not taken for new ones

# Variants of the ablations: a sampler and its options. `ends` are tokens; continuity has 4 at N =
# 512 and scale 8. The releases throw one coin for 3,000 documents of 65,500: here that is all of
# them; 70 is as large a share.
ABLATIONS: dict[str, tuple[str, dict[str, object]]] = {
    "cream": ("cream", {}),
    "continuity": ("cream", {"mode": "continuity"}),
    "relativity": ("cream", {"mode": "relativity"}),
    "uniform": ("cream", {"middle": "uniform"}),
    "truncated": ("cream", {"middle": "truncated"}),
    "sigma 1": ("cream", {"sigma": 1.0}),
    "sigma 2": ("cream", {"sigma": 2.0}),
    "sigma 4": ("cream", {"sigma": 4.0}),
    "ends x4": ("cream", {"ends": 16}),
    "ends x16": ("cream", {"ends": 64}),
    "mode by batch": ("cream", {"mode_group": 3000}),
    "mode by 70": ("cream", {"mode_group": 70}),
    "pose": ("pose", {}),
    "pose-v1": ("pose-v1", {}),
}
# At scale 64 the releases differ: their means are 1 + s = 65 (cream's own) and 9.
AT_64: dict[str, tuple[str, dict[str, object]]] = {
    "pose": ("pose", {}),
    "cream": ("cream", {}),
    "sigma grown": ("cream", {"sigma": 24.0}),
    "uniform": ("cream", {"middle": "uniform"}),
    "mean 9": ("cream", {"mean": 9.0}),
    "plain": ("plain", {}),
    "content free": ("cream", {"content": "free"}),  # added later (PREREGISTRATION, changes)
}


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a scaling is tuned in a condition."""

    steps: int
    learning_rate: float


Recipes = Mapping[tuple[str, str], Recipe]  # by condition and scaling


@dataclass(frozen=True)
class Run:
    """One model: a base as it is, scaled, or tuned; and the set of questions it is asked."""

    plan: str
    condition: str  # the training data: text, mixed; none of an untuned model
    variant: str  # what tables call it
    method: str
    scaling: str
    scale: int
    base: str
    seed: int
    steps: int  # 0: not tuned
    learning_rate: float
    options: str  # of the sampler, as JSON
    asked: str

    @property
    def sampler_options(self) -> dict[str, object]:
        """The options as keywords."""
        return json.loads(self.options)

    @property
    def sharper(self) -> float:
        """The factor on the logits of attention when the model is asked."""
        return asked_as(self.asked)[1]

    @property
    def rope(self) -> rope.RopeScaling | None:
        """The RoPE scaling of the run; None: its base is loaded as it is."""
        return None if self.scaling == "none" else rope.scaling(self.scaling, self.scale)

    def sampler(self, window: int) -> Sampler:
        """Return the run's sampler for a base of window N tokens."""
        return sampler(self.method, window, self.scale, **self.sampler_options)

    def tokens_trained(self, window: int) -> int:
        """Return the tokens that the run reads in all; 0 where nothing is tuned."""
        return self.steps and self.steps * self.batch * self.sampler(window).example_length

    @property
    def batch(self) -> int:
        """Examples a step: as many tokens whatever their length."""
        whole = BATCH // 4 if self.plan == "tiny" else BATCH
        return whole // self.scale if self.method == "full" else whole

    def key(self, base_hash: str, corpus_hash: str | None, questions_hash: str) -> str:
        """Return the run's identity: all of the above, and what is behind its names."""
        identity = (base_hash, corpus_hash, questions_hash, SETTINGS)
        return hash_of(dataclasses.asdict(self), identity)


def _untuned(plan: str, base: str, scale: int, asked: str) -> Iterator[Run]:
    yield Run(plan, "none", "original", "original", "none", 1, base, 0, 0, 0.0, "{}", asked)
    for scaling in SCALINGS:
        yield Run(plan, "none", "scaled", "scaled", scaling, scale, base, 0, 0, 0.0, "{}", asked)


def _tuned(
    plan: str,
    condition: str,
    variant: tuple[str, str, Mapping[str, object]],
    scalings: Sequence[str],
    scale: int,
    unit: tuple[str, int],
    recipes: Recipes,
    asked: str,
) -> Iterator[Run]:
    """One variant by several scalings, the longest first: the others' examples are its first."""
    name, method, options = variant
    for scaling in sorted(scalings, key=lambda each: -recipes[condition, each].steps):
        recipe = recipes[condition, scaling]
        yield Run(plan, condition, name, method, scaling, scale, *unit, recipe.steps,
                  recipe.learning_rate, json.dumps(dict(options)), asked)  # fmt: skip


def _recipe(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """PoSE on the first base with seeds and questions of its own."""
    for seed, condition, rate in itertools.product(VALIDATION_SEEDS, CONDITIONS, RATES):
        for longest in (True, False):
            tried = {(condition, s): Recipe(STEPS[s][longest], rate) for s in SCALINGS}
            yield from _tuned("recipe", condition, ("pose", "pose", {}), SCALINGS, SCALE,
                              (bases[0], seed), tried, "validation")  # fmt: skip
    for condition, seed, scaling in itertools.product(CONDITIONS[::-1], VALIDATION_SEEDS, LONGER):
        for longer in LONGER[scaling]:
            yield from _tuned("recipe", condition, ("pose", "pose", {}), (scaling,), SCALE,
                              (bases[0], seed), {(condition, scaling): Recipe(*longer)},
                              "validation")  # fmt: skip


def _primary(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    for base in bases:
        yield from _untuned("primary", base, SCALE, "main")
    for scalings, part in (
        (SCALINGS, seeds[:FIRST_SEEDS]),
        (RUN_FIRST, seeds[FIRST_SEEDS:]),
        (RUN_LAST, seeds[FIRST_SEEDS:]),
    ):  # fmt: skip
        for seed, method, condition, base in itertools.product(part, TUNED, CONDITIONS, bases):
            yield from _tuned("primary", condition, (method, method, {}), scalings, SCALE,
                              (base, seed), recipes, "main")  # fmt: skip


def _sensitivity(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """Every method at three learning rates: YaRN, the first base, three seeds."""
    for seed, method, condition in itertools.product(seeds[:3], TUNED, CONDITIONS):
        for rate in RATES:
            tried = {(condition, "yarn"): Recipe(recipes[condition, "yarn"].steps, rate)}
            yield from _tuned("sensitivity", condition, (method, method, {}), ("yarn",), SCALE,
                              (bases[0], seed), tried, "main")  # fmt: skip


def _ablations(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """Four seeds of every base, YaRN and linear; what the primary grid has is not run again."""
    new = {name: made for name, made in ABLATIONS.items() if name not in TUNED}
    every = itertools.product(("yarn", *RUN_LAST), seeds[:4], new.items(), CONDITIONS, bases)
    for scaling, seed, (name, made), condition, base in every:
        yield from _tuned("ablations", condition, (name, *made), (scaling,), SCALE,
                          (base, seed), recipes, "main")  # fmt: skip


def _scale64(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """512 to 32,768 tokens: YaRN, 1,000 steps, both conditions, four seeds of every base."""
    for base in bases:
        yield from _untuned("scale64", base, LONG_SCALE, "far")
    for seed, (name, made), condition, base in itertools.product(
        seeds[:4], AT_64.items(), CONDITIONS, bases
    ):
        long = {(condition, "yarn"): Recipe(1000, recipes[condition, "yarn"].learning_rate)}
        yield from _tuned("scale64", condition, (name, *made), ("yarn",), LONG_SCALE,
                          (base, seed), long, "far")  # fmt: skip


def _tenth(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """CREAM by YaRN after a tenth of its steps: four seeds of every base, both conditions."""
    for seed, condition, base in itertools.product(seeds[:4], CONDITIONS, bases):
        whole = recipes[condition, "yarn"]
        short = {(condition, "yarn"): Recipe(whole.steps // 10, whole.learning_rate)}
        yield from _tuned("tenth", condition, ("cream", "cream", {}), ("yarn",), SCALE,
                          (base, seed), short, "main")  # fmt: skip


def _dense_recipe(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """PoSE by linear on the first base, on dense retrieval, as the plan "recipe" asks."""
    every = itertools.product(VALIDATION_SEEDS, DENSE, DENSE_STEPS, DENSE_RATES)
    for seed, condition, steps, rate in every:
        tried = {(condition, "linear"): Recipe(steps, rate)}
        yield from _tuned("dense-recipe", condition, ("pose", "pose", {}), ("linear",), SCALE,
                          (bases[0], seed), tried, "validation")  # fmt: skip


def _dense(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """Every method by linear on dense retrieval that it can learn: four seeds of every base."""
    for base in bases:
        yield from (r for r in _untuned("dense", base, SCALE, "main") if r.scaling == "linear")
    for seed, method, condition, base in itertools.product(
        seeds[:4], TUNED, DENSE_CONDITIONS, bases
    ):
        yield from _tuned("dense", condition, (method, method, {}), ("linear",), SCALE,
                          (base, seed), recipes, "main")  # fmt: skip


def _margin(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """Tuned for L and for 1.25 L, both used to L: by YaRN, with retrieval, every base.

    A full-length step for 1.25 L reads 3 examples, so a sixteenth fewer tokens than the others.
    """
    methods, scales = ("cream", "pose", "plain", "full"), (SCALE, int(WIDER * SCALE))
    for seed, method, scale, base in itertools.product(seeds, methods, scales, bases):
        name = method if scale == SCALE else WIDER_NAME.format(method)
        yield from _tuned("margin", "mixed", (name, method, {}), ("yarn",), scale,
                          (base, seed), recipes, "main")  # fmt: skip


def _sharper_choice(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """CREAM and PoSE asked with sharper attention, with seeds and questions of their own."""
    for seed, method in itertools.product(VALIDATION_SEEDS, CHOICE_METHODS):
        yield from _asked_sharper("sharper-choice", method, SCALE, (bases[0], seed), recipes,
                                  "validation")  # fmt: skip


def _sharper(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """Attention sharper when a model is asked, beside the margin and full length: by YaRN."""
    methods, scales = ("cream", "pose", "plain"), (SCALE, int(WIDER * SCALE))
    for seed, base in itertools.product(seeds, bases):
        for method, scale in itertools.product(methods, scales):
            yield from _asked_sharper("sharper", method, scale, (base, seed), recipes, "main")
        yield from _tuned("sharper", "mixed", ("full", "full", {}), ("yarn",), SCALE, (base, seed),
                          recipes, "main")  # fmt: skip


def _asked_sharper(
    plan: str, method: str, scale: int, unit: tuple[str, int], recipes: Recipes, asked: str
) -> Iterator[Run]:
    """One model, asked as it is and by every factor: trained once, since they follow each other.

    A call that was cut off between them trains it again for those that are left.
    """
    own = method if scale == SCALE else WIDER_NAME.format(method)
    for factor in (1.0, *SHARPER):
        name, questions = (one if factor == 1 else SHARPER_NAME.format(one, factor)
                           for one in (own, asked))  # fmt: skip
        yield from _tuned(plan, "mixed", (name, method, {}), ("yarn",), scale, unit, recipes,
                          questions)  # fmt: skip


def _tiny(bases: Sequence[str], seeds: Sequence[int], recipes: Recipes) -> Iterator[Run]:
    """A few steps and questions: to see that everything runs."""
    few = {key: Recipe(12 if key[1] == "linear" else 11, 3e-4) for key in recipes}
    for base in bases:
        yield from list(_untuned("tiny", base, SCALE, "tiny"))[::3]
    for seed, base in itertools.product(seeds, bases):
        for method, condition in (("cream", "mixed"), ("full", "text")):
            yield from _tuned("tiny", condition, (method, method, {}), ("linear", "yarn"), SCALE,
                              (base, seed), few, "tiny")  # fmt: skip


PLANS = {"recipe": _recipe, "primary": _primary, "sensitivity": _sensitivity,
         "ablations": _ablations, "scale64": _scale64, "tenth": _tenth,
         "dense-recipe": _dense_recipe, "dense": _dense, "margin": _margin,
         "sharper-choice": _sharper_choice, "sharper": _sharper, "tiny": _tiny}  # fmt: skip
CHOOSING = ("recipe", "dense-recipe")
WITHOUT_RECIPES = (*CHOOSING, "tiny")


def plan(
    name: str, bases: Sequence[str], seeds: Sequence[int], recipes: Recipes | None = None
) -> list[Run]:
    """Return the runs of a plan in their order; ValueError for a plan that does not exist.

    `recipes` are those that `choose` found; every plan but "recipe" and "tiny" needs them.
    """
    if name not in PLANS:
        raise ValueError(f"there is no plan {name!r}: choose from {', '.join(PLANS)}")
    if len(set(bases)) < len(bases) or not bases:
        raise ValueError(f"bases {list(bases)} must be different folders, at least one")
    if recipes is None:
        if name not in WITHOUT_RECIPES:
            raise ValueError(f"plan {name!r} needs the recipes: run the plan 'recipe' before")
        recipes = {key: Recipe(100, 3e-4) for key in itertools.product(CONDITIONS, SCALINGS)}
    return list(PLANS[name](bases, seeds, recipes))


def groups(runs: Sequence[Run], shard: tuple[int, int] = (0, 1)) -> list[list[Run]]:
    """Return this shard's runs, those together that learn from the same examples.

    Some of them: a process takes a group, and the last ones must not take long.
    """
    apart = itertools.groupby(
        runs, lambda r: (r.condition, r.method, r.options, r.scale, r.seed, r.plan)
    )
    number, of = shard
    most = RUNS_PER_GROUP[runs[0].plan] if runs else 1
    found = [list(each) for _, each in apart]
    parts = [each[k : k + most] for each in found for k in range(0, len(each), most)]
    return parts[number::of]


def choose(
    frame: pd.DataFrame, name: str = "recipe"
) -> tuple[dict[tuple[str, str], Recipe], pd.DataFrame]:
    """Choose the recipe of every condition and scaling of a plan; return them with the evidence.

    The preregistered rule: the mean over both validation seeds of (lines + kv) / 2 is highest; of
    recipes within 1 point of the highest the one of fewest steps, then of the lowest rate. The
    evidence has a row a recipe: condition, scaling, steps, learning_rate, score, lines, kv, runs,
    chosen. ValueError where a recipe has not been run with both seeds.
    """
    runs = units(frame[frame["plan"] == name])
    keys = ["condition", "scaling", "steps", "learning_rate"]
    table = runs.groupby(keys)[["lines", "kv"]].mean()
    table["runs"] = runs.groupby(keys).size()
    table = table.assign(score=(table["lines"] + table["kv"]) / 2).reset_index()
    found, table["chosen"] = {}, False
    listed = pd.DataFrame(map(vars, plan(name, ["base"], []))).drop_duplicates(keys)
    for key, recipes in listed.groupby(keys[:2], sort=False):
        tried = table[(table["condition"] == key[0]) & (table["scaling"] == key[1])]
        if len(tried) < len(recipes) or (tried["runs"] < len(VALIDATION_SEEDS)).any():
            raise ValueError(
                f"{len(tried)} of {len(recipes)} recipes of {' and '.join(key)} have been run, "
                f"{int(tried['runs'].sum())} of {len(recipes) * len(VALIDATION_SEEDS)} runs: "
                f"finish the plan {name!r} before one is chosen"
            )
        good = tried[tried["score"] >= tried["score"].max() - RECIPE_MARGIN]
        best = good.sort_values(["steps", "learning_rate"]).iloc[0]
        table.loc[best.name, "chosen"] = True
        found[key] = Recipe(int(best["steps"]), float(best["learning_rate"]))
    return found, table
