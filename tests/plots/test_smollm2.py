"""The real model's figure: which rows it draws, and what it says of them."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from cream.plots.smollm2 import found_by_length, in_multiples, sentences_found

MODELS = (("original", "none", 1), ("scaled", "yarn", 8), ("cream", "yarn", 8), ("pose", "ntk", 8))


@pytest.fixture
def rows() -> pd.DataFrame:
    made = [
        {"task": "needle", "method": method, "scaling": scaling, "scale": scale, "window": 8192,
         "token_length": length, "depth_percent": depth, "model_hash": f"{method}{seed}",
         "document": None, "sample": 2 * (depth > 0) + seed,
         "score": float(seed == 0)}
        for (method, scaling, scale), length, depth, seed in itertools.product(
            MODELS, (2048, 8192, 65436), (0.0, 100.0), (0, 1))
    ]  # fmt: skip
    return pd.DataFrame(made)


def test_runs_of_several_seeds_are_pooled(rows):
    table = found_by_length(rows)
    assert len(table) == len(MODELS) * 3
    assert set(table["value"]) == {0.5} and set(table["n"]) == {4} and set(table["runs"]) == {2}


def test_the_last_length_counts_as_the_target(rows):
    assert sorted(set(in_multiples(rows)["multiple"])) == [0.25, 1.0, 8.0]


def test_maps_and_curves_are_drawn_and_name_what_was_counted(rows):
    figure = sentences_found(rows)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[:3] == ["original: 50 %", "scaled, untuned, yarn: 50 %", "CREAM, yarn: 50 %"]
    assert "ntk x8" in titles and "yarn x8" in titles
    assert "n = 4 sentences" in figure.get_supxlabel()
    figure.draw_without_rendering()
    assert [one.get_text() for one in figure.axes[0].get_xticklabels()] == ["0.25N", "N", "8N"]


def test_every_length_has_its_name_where_there_is_room(rows):
    curves = sentences_found(rows[rows["scaling"] != "ntk"]).axes[-1]
    curves.figure.draw_without_rendering()
    assert [one.get_text() for one in curves.get_xticklabels()] == ["0.25N", "N", "8N"]


def test_a_model_without_rows_leaves_its_place_empty(rows):
    figure = sentences_found(rows[rows["method"] != "cream"])
    assert not figure.axes[2].axison


def test_rows_of_other_tasks_are_refused(rows):
    with pytest.raises(ValueError, match="hidden sentence"):
        sentences_found(rows.assign(task="passkey"))


def test_methods_with_scalings_of_their_own_share_a_panel(rows):
    clex = rows[rows["method"] == "pose"].assign(method="clex", scaling="clex", model_hash="c")
    figure = sentences_found(pd.concat([rows, clex], ignore_index=True))
    (panel,) = [a for a in figure.axes if "own scalings" in a.get_title(loc="left")]
    assert {one.get_label() for one in panel.containers} == {"original", "CLEX", "CREAM"}
