"""Told distances: counted from draws, and a law is found where there is one and only there."""

import numpy as np
import pandas as pd
import pytest
from made_campaign import campaign

from cream.positions import coverage, sampler
from cream.study.analysis import distances

BINS = 16


def made(follows: bool = True, seed: int = 0, level: float = 1.0):
    """Six variants with random histograms on three bases, accuracy a function of them or not."""
    rng = np.random.default_rng(seed)
    cells = [(f"m{m}", k, 10 ** rng.uniform(-1, 3)) for m in range(6) for k in range(BINS)]
    histogram = pd.DataFrame(cells, columns=["variant", "bin", "assigned"])
    planted = (
        histogram if follows else histogram.assign(assigned=10 ** rng.uniform(-1, 3, 6 * BINS))
    )
    found = []
    for base in range(3):
        odds = 1.5 * (np.log10(planted["assigned"]) - 1) - 0.1 * planted["bin"] + 0.5 * base
        odds += 0.3 * rng.standard_normal(len(odds))
        found.append(planted[["variant", "bin"]].assign(
            condition="text", scaling="yarn", base=f"b{base}", n=200,
            accuracy=level / (1 + np.exp(-odds))))  # fmt: skip
    return pd.concat(found, ignore_index=True), histogram


def test_a_planted_law_is_recovered():
    """Its slope, and an error on variants left out that falls by half in every base."""
    (row,) = distances.law(*made()).itertuples()
    assert row.variants == 6 and row.bases == 3 and row.cells == 3 * 6 * BINS
    assert row.slope == pytest.approx(1.5, abs=0.1)
    assert row.error_histogram < 0.5 * row.error_distance
    assert row.gain_low > 10 and row.gain_low <= row.gain <= row.gain_high
    assert row.gain == pytest.approx(row.error_distance - row.error_histogram)


def test_no_law_is_found_where_there_is_none():
    """Accuracies of other histograms: the gain vanishes, however the coins fall."""
    for seed in range(5):
        (row,) = distances.law(*made(follows=False, seed=seed)).itertuples()
        assert row.gain < 1 and row.gain_low < 0.5 and abs(row.slope) < 0.5


def test_shuffled_within_its_bins_the_histogram_says_nothing():
    """The same accuracies with other variants' counts."""
    accuracy, histogram = made()
    rng = np.random.default_rng(1)
    mixed = histogram.groupby("bin")["assigned"].transform(lambda part: rng.permutation(part))
    (row,) = distances.law(accuracy, histogram.assign(assigned=mixed)).itertuples()
    assert row.gain < 1


def test_what_the_distance_alone_explains_is_no_gain():
    """Counts and accuracies that fall with distance alike in every variant."""
    accuracy, histogram = made(follows=False)
    rng = np.random.default_rng(2)
    told = 10 ** (3 - 0.2 * histogram["bin"] + 0.2 * rng.standard_normal(len(histogram)))
    odds = 2 - 0.4 * accuracy["bin"] + 0.3 * rng.standard_normal(len(accuracy))
    (row,) = distances.law(
        accuracy.assign(accuracy=1 / (1 + np.exp(-odds))), histogram.assign(assigned=told)
    ).itertuples()
    assert row.gain < 0.5 and row.error_distance < 12


def test_a_variant_is_predicted_without_itself():
    """Changing a variant's own accuracies changes nothing in its predictions."""
    accuracy, histogram = made()
    mine = accuracy["variant"] == "m3"
    other = accuracy.assign(accuracy=accuracy["accuracy"].where(~mine, 0.01))
    columns = ["by_distance", "by_histogram"]
    first, second = (distances.left_out(each, histogram) for each in (accuracy, other))
    first, second = (each.loc[each["variant"] == "m3", columns] for each in (first, second))
    assert len(first) == 3 * BINS
    np.testing.assert_allclose(first, second)


def test_a_setting_without_answers_or_with_two_variants_predicts_nothing():
    """There is nothing to predict, or nothing to fit."""
    accuracy, histogram = made(level=0.005)
    assert distances.left_out(accuracy, histogram).empty
    assert distances.law(accuracy, histogram).empty
    accuracy, histogram = made()
    two = accuracy[accuracy["variant"].isin(["m0", "m1"])]
    assert distances.law(two, histogram).empty


def test_told_pairs_are_those_of_the_draws():
    """Against every pair of one example, counted one by one."""
    draw = sampler("pose", 64, 8)
    positions = draw.draw(9 * 64, 0, 0, 0).positions
    pairs = np.abs(positions[:, None] - positions[None, :])[np.triu_indices(64, 1)]
    expected = np.histogram(pairs, bins=BINS, range=(0, 512))[0]
    found = distances.assigned({"pose": draw}, BINS, examples=1)
    assert (found["assigned"] * 64 / 1000 * 32).to_numpy() == pytest.approx(expected)
    full = distances.assigned({"full": sampler("full", 64, 8)}, 4)["assigned"]
    counts = coverage.distance_counts(np.arange(512), 512)[1:128].sum() / 128 * 1000 / 512
    assert full[0] == pytest.approx(counts)


def test_told_queries_are_a_windows():
    """Their sum is the queries a window, their shape the counted one."""
    row = {"queries_a_window": 2.0, "told_distances_of_queries": [3, 1] + [0] * 61 + [4]}
    none = {"queries_a_window": 0.0, "told_distances_of_queries": [0] * 64}
    counts = {"mixed": {"variants": {"pose": row, "plain": none}}, "text": {"variants": {}}}
    found = distances.query_distances(counts, "mixed", BINS)
    assert set(found["variant"]) == {"pose"}
    assert found["assigned"].tolist() == [1.0] + [0.0] * 14 + [1.0]
    assert distances.query_distances(counts, "text").empty
    assert distances.query_distances({}, "text").empty


def test_samplers_come_from_the_rows_options():
    """Each variant with its own; a coin for many examples has no histogram of its own."""
    frame = campaign(("primary", "ablations"), samples=2, bases=1, seeds=1)
    found = distances.samplers_of(frame)
    assert found["sigma 4"].sigma == 4 and found["continuity"].mode == "continuity"
    assert found["pose-v1"].first_shift and not found["pose"].first_shift
    assert "mode by batch" not in found and "original" not in found


def test_distance_is_from_the_question_back_to_the_record():
    """A line at the end is near, one at the start far; bases apart, lengths up to N left out."""
    one = pd.DataFrame(
        {"task": "longchat_lines", "method": "cream", "variant": "cream", "condition": "text",
         "scaling": "yarn", "window": 512, "scale": 8, "token_length": 4096, "base": "a",
         "depth_percent": [0.0] * 20 + [50.0] * 20 + [95.0] * 20,
         "score": [0.0] * 15 + [1.0] * 5 + [0.0] * 10 + [1.0] * 10 + [1.0] * 20}
    )  # fmt: skip
    near = one.assign(token_length=512, score=0.0)
    rows = pd.concat([one, near, one.assign(task="kv_retrieval"), one.assign(base="b", score=1.0)])
    table = distances.by_distance(rows, BINS).set_index(["base", "bin"])
    assert table.loc["a", "accuracy"].to_dict() == {15: 0.25, 8: 0.5, 0: 1.0}
    assert set(table.loc["b", "accuracy"]) == {1.0} and set(table["n"]) == {20}
    few = rows.groupby(["task", "base", "token_length", "depth_percent"]).head(9)
    assert distances.by_distance(few, BINS).empty


def test_without_rows_there_is_nothing_and_no_error():
    """A notebook without a grid goes through."""
    none = pd.DataFrame()
    assert distances.samplers_of(none) == {}
    cells, histogram = distances.by_distance(none), distances.assigned({})
    assert cells.empty and histogram.empty and distances.law(cells, histogram).empty


def test_the_picture_has_a_panel_a_setting():
    """The histogram stands once, at the left; a setting without right answers has no panel."""
    accuracy, histogram = made()
    nothing = accuracy.assign(scaling="linear", accuracy=0.0)
    both = pd.concat([accuracy, accuracy.assign(condition="mixed"), nothing])
    figure = distances.picture(both, histogram, 8)
    assert len(figure.axes) == 3 and len(figure.axes[1].lines) == 6
    titles = ["text only,\nyarn", "text with retrieval,\nyarn"]
    assert [axes.get_title("left") for axes in figure.axes[1:]] == titles
    for empty in (accuracy.iloc[:0], nothing):
        with pytest.raises(ValueError, match="run a grid first"):
            distances.picture(empty, histogram, 8)
