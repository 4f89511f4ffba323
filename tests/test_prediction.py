"""Told distances: counted from draws, and a law is found where there is one and only there."""

import numpy as np
import pandas as pd
import pytest
from made_campaign import campaign

from cream import coverage, prediction
from cream.positions import sampler

BINS = 16


def made(follows: bool, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six methods with random histograms, their accuracy a function of them or of nothing."""
    rng = np.random.default_rng(seed)
    cells = [(f"m{m}", k, 10 ** rng.uniform(-1, 3)) for m in range(6) for k in range(BINS)]
    histogram = pd.DataFrame(cells, columns=["variant", "bin", "told"])
    x = np.log10(histogram["told"]) if follows else rng.uniform(-1, 3, len(histogram))
    odds = 1.5 * (x - 1) - 0.1 * histogram["bin"] + 0.3 * rng.standard_normal(len(histogram))
    accuracy = histogram[["variant", "bin"]].assign(
        condition="text", scaling="yarn", accuracy=1 / (1 + np.exp(-odds)), n=200
    )
    return accuracy, histogram


def test_a_law_is_found_where_accuracy_follows_the_histogram():
    """The error on methods left out falls by half or more."""
    (row,) = prediction.law(*made(follows=True)).itertuples()
    assert row.methods == 6 and row.cells == 6 * BINS
    assert row.rank_in_bin > 0.85 and row.error_histogram < 0.5 * row.error_distance


def test_no_law_is_found_where_there_is_none():
    """The histogram does not help on methods left out, however the coins fall."""
    for seed in range(5):
        (row,) = prediction.law(*made(follows=False, seed=seed)).itertuples()
        assert row.error_histogram > 0.93 * row.error_distance and abs(row.rank_in_bin) < 0.35


def test_a_method_is_predicted_without_itself():
    """Changing a method's own accuracies changes nothing in its predictions."""
    accuracy, histogram = made(follows=True)
    mine = accuracy["variant"] == "m3"
    other = accuracy.assign(accuracy=accuracy["accuracy"].where(~mine, 0.01))
    columns = ["by_distance", "by_histogram"]
    first, second = (
        frame[frame["variant"] == "m3"][columns].reset_index(drop=True)
        for frame in (
            prediction.left_out(accuracy, histogram),
            prediction.left_out(other, histogram),
        )
    )
    pd.testing.assert_frame_equal(first, second)
    less = prediction.left_out(accuracy, histogram, without=["m0", "m1"])
    assert set(less["variant"]) == {"m2", "m3", "m4", "m5"}
    assert prediction.left_out(accuracy, histogram, ["m0", "m1", "m2", "m3"]).empty


def test_told_pairs_are_those_of_the_draws():
    """Against every pair of one example, counted one by one."""
    draw = sampler("pose", 64, 8)
    positions = draw.draw(9 * 64, 0, 0, 0).positions
    pairs = np.abs(positions[:, None] - positions[None, :])[np.triu_indices(64, 1)]
    expected = np.histogram(pairs, bins=BINS, range=(0, 512))[0]
    found = prediction.told({"pose": draw}, BINS, examples=1)
    assert (found["told"] * 64 / 1000 * 32).to_numpy() == pytest.approx(expected)
    full = prediction.told({"full": sampler("full", 64, 8)}, 4, examples=2)["told"]
    counts = coverage.distance_counts(np.arange(512), 512)[1:128].sum() / 128 * 1000 / 512
    assert full[0] == pytest.approx(counts)


def test_samplers_come_from_the_rows_options():
    """Each variant with its own; a coin for many examples has no histogram of its own."""
    frame = campaign(("primary", "ablations"), samples=2, bases=1, seeds=1)
    found = prediction.samplers_of(frame)
    assert found["sigma 4"].sigma == 4 and found["continuity"].mode == "continuity"
    assert found["pose-v1"].first_shift and not found["pose"].first_shift
    assert "mode by batch" not in found and "original" not in found


def test_distance_is_from_the_question_back_to_the_record():
    """A record at the end is near, one at the start far; what lies within N is left out."""
    rows = pd.DataFrame(
        {"task": "longchat_lines", "method": "cream", "variant": "cream", "condition": "text",
         "scaling": "yarn", "window": 512, "scale": 8, "token_length": 4096,
         "depth_percent": [0.0] * 20 + [50.0] * 20 + [95.0] * 20,
         "score": [0.0] * 15 + [1.0] * 5 + [0.0] * 10 + [1.0] * 10 + [1.0] * 20}
    )  # fmt: skip
    table = prediction.by_distance(rows, BINS).set_index("bin")
    assert table["accuracy"].to_dict() == {15: 0.25, 8: 0.5} and set(table["n"]) == {20}
    few = rows.groupby("depth_percent").head(9)
    assert prediction.by_distance(few, BINS).empty


def test_the_picture_has_a_line_a_condition():
    """What was told at the left, accuracies of each scaling beside it."""
    accuracy, histogram = made(follows=True)
    both = pd.concat([accuracy, accuracy.assign(condition="mixed")])
    figure = prediction.picture(both, histogram, 8)
    assert len(figure.axes) == 4 and len(figure.axes[1].lines) == 6
    with pytest.raises(ValueError, match="run a grid first"):
        prediction.picture(accuracy.iloc[:0], histogram, 8)
