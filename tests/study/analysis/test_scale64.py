"""Scale 64: planted differences come back paired, and what orders the variants is named."""

import numpy as np
import pandas as pd
import pytest

from cream.study.analysis import scale64

TOLD = {"cream": 0.7, "pose": 1.0, "mean 9": 0.25, "uniform": 0.9}
READ = {"cream": 0.1, "pose": 0.8, "mean 9": 0.6, "uniform": 0.3}


def rows(seeds: dict[str, int] | None = None, bases: int = 3) -> pd.DataFrame:
    """Answers whose perplexity falls with what is read; half of the lines at 8 N are right."""
    found = []
    for variant in READ:
        for base in range(bases):
            for seed in range((seeds or {}).get(variant, 2)):
                shift = 0.1 * base + 0.05 * seed  # cancels in pairs
                run = {"plan": "scale64", "condition": "text", "method": "cream",
                       "base": f"b{base}", "variant": variant, "seed": seed,
                       "window": 512}  # fmt: skip
                for length in (512, 4096, 32768):
                    loss = 5 - 2 * READ[variant] + shift
                    found += [{**run, "task": "perplexity", "token_length": length,
                               "nll": loss * size, "scored_tokens": size}
                              for size in (100, 300)]  # fmt: skip
                    right = {512: (1, 1), 4096: (0, 1), 32768: (0, 0)}[length]
                    found += [{**run, "task": "longchat_lines", "token_length": length,
                               "score": score} for score in right]  # fmt: skip
    return pd.DataFrame(found)


def counts() -> dict:
    """As `layout.read` gives them: 64 ranges of distance, the first of which are assigned."""
    pairs = {f"{name}, scale 64": [0.1] * round(64 * share) + [0.0] * (64 - round(64 * share))
             for name, share in TOLD.items()}  # fmt: skip
    variants = {f"{name}, scale 64": {"text_read": share} for name, share in READ.items()}
    variants |= {"cream": {"text_read": 0.5}}
    return {
        "told_distances_of_tokens": pairs | {"cream": [0.1] * 64},
        "text": {"variants": variants},
    }


def test_measures_are_those_of_each_length():
    """The loss over all tokens, the share of lines; the shortest first."""
    runs = scale64.measures(rows())
    assert list(runs.columns[4:]) == [
        f"{what} at {length}" for what in ("lines", "log perplexity")
        for length in ("N", "8N", "64N")
    ]  # fmt: skip
    assert len(runs) == 4 * 3 * 2
    one = runs[(runs["variant"] == "pose") & (runs["base"] == "b1") & (runs["seed"] == 1)]
    assert one["log perplexity at 8N"].item() == pytest.approx(100 * (5 - 1.6 + 0.15))
    assert one[["lines at N", "lines at 8N", "lines at 64N"]].to_numpy().tolist() == [[100, 50, 0]]


def test_differences_are_of_the_same_base_and_seed():
    """A reference with fewer seeds leaves the others' out; bases and seeds cancel."""
    found = scale64.differences(scale64.measures(rows({"cream": 1})))
    assert set(found["a"]) == {"pose", "mean 9", "uniform"}
    pose = found[found["a"] == "pose"].set_index("measure")
    assert set(pose["n"]) == {3} and set(pose["bases"]) == {3} and set(pose["seeds"]) == {1}
    near = pose.loc["log perplexity at N"]
    assert near[["value", "low", "high"]].tolist() == pytest.approx([-140] * 3, abs=1e-6)
    one = scale64.differences(scale64.measures(rows(bases=1)))
    assert one["low"].isna().all() and set(one["n"]) == {2}


def test_cells_are_read_with_their_n():
    """One row a variant, with its interval or the word that there is none."""
    runs = scale64.measures(rows())
    table = scale64.cells(scale64.differences(runs))
    assert table["a"].tolist() == ["pose", "uniform", "mean 9"]
    assert table.loc[0, "log perplexity at 64N"] == "-140.0 [-140.0, -140.0]"
    assert table[["n", "bases", "seeds"]].iloc[0].tolist() == [6, 3, 2]
    level = scale64.cells(scale64.levels(scale64.measures(rows(bases=1))))
    assert level.loc[0, "lines at 8N"] == "50.0 [no interval]" and len(level) == 4


def test_reach_is_of_the_scale_alone():
    """Shares of ranges that are assigned, and of the corpus that is read."""
    reached = scale64.reach(counts()).set_index("variant")
    assert reached["read"].to_dict() == READ
    assert reached["assigned"].to_dict() == pytest.approx(TOLD, abs=0.01)
    assert scale64.reach({}).empty


def test_the_training_loss_is_the_last_one_kept(tmp_path):
    """Of every run once, however many answers it has; other plans and untuned models are none."""
    kept = {"cream": [2.0, 0.5], "pose": [2.0, 1.5]}
    some = pd.concat([rows(seeds={"uniform": 0, "mean 9": 0}), rows().assign(plan="primary")])
    losses = some["variant"].map(lambda name: str(kept.get(name, [9.0])))
    later = losses.where(some["seed"] == 0, losses.str.replace("5]", "7]"))
    losses = later.where(some["base"] != "b2", "[]")
    some.assign(losses=losses).to_parquet(tmp_path / "grid.parquet")
    found = scale64.training_losses(tmp_path / "grid.parquet").set_index("variant")["training_loss"]
    assert found.to_dict() == pytest.approx({"cream": 0.6, "pose": 1.6})
    some.to_parquet(tmp_path / "without.parquet")
    for name in ("without.parquet", "absent.parquet"):
        assert scale64.training_losses(tmp_path / name).empty


def test_what_orders_the_variants_is_told_from_what_does_not():
    """Perplexity falls with what is read in every base; lines do not differ."""
    found = scale64.order(scale64.measures(rows()), scale64.reach(counts())).set_index("measure")
    near = found.loc["log perplexity at N"]
    assert near["read"] == -1 and near["read_range"] == (-1, -1) and near["variants"] == 4
    assert near["assigned"] == pytest.approx(-0.4)  # ranks 1 2 3 4 against 2 4 3 1
    assert np.isnan(found.loc["lines at N", "read"])


def test_the_picture_has_what_is_assigned_beside_what_is_read():
    """A point a variant in each panel."""
    runs, reached = scale64.measures(rows()), scale64.reach(counts())
    figure = scale64.picture(runs, reached, "log perplexity at N", "loss")
    assert [len(panel.containers) for panel in figure.axes] == [4, 4]
    assert figure.axes[1].get_xlabel().startswith("tokens of the corpus")
    other = scale64.measures(rows().assign(plan="primary"))
    assert other.empty and scale64.cells(scale64.levels(other)).empty
    assert scale64.cells(scale64.differences(scale64.measures(pd.DataFrame()))).empty
    assert scale64.order(other, reached).empty
    with pytest.raises(ValueError, match="run the plan scale64"):
        scale64.picture(scale64.measures(rows().iloc[:0]), reached, "log perplexity at N", "loss")
    with pytest.raises(ValueError, match="no counts"):
        scale64.picture(runs, scale64.reach({}), "log perplexity at N", "loss")
