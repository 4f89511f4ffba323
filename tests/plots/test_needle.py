"""The needle's grid and the pass key's curve: values, n, order, greys, and what cannot be drawn."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.container import ErrorbarContainer

from cream.plots import heat
from cream.plots.needle import needle_heatmap, passkey_by_length
from cream.plots.style import save
from cream.results import COLUMNS
from cream.results.published import read_published
from cream.statistics import wilson

PAPER = Path(__file__).resolve().parents[2] / "data" / "paper"
LENGTHS, DEPTHS = (307, 512, 1024, 3994), (0, 50, 100)


def rows(
    methods: tuple[str, ...] = ("original", "cream"), samples: int = 2, task: str = "needle"
) -> pd.DataFrame:
    """The original right up to N, CREAM everywhere but at the longest length's depth 50."""
    made = []
    for method in methods:
        for length in LENGTHS:
            for depth in DEPTHS:
                for sample in range(samples):
                    right = length <= 512 if method == "original" else (length, depth) != (3994, 50)
                    made.append(
                        {"run": method, "model_hash": method, "method": method, "window": 512,
                         "scaling": "none" if method == "original" else "yarn", "task": task,
                         "scale": 1 if method == "original" else 8, "token_length": length,
                         "depth_percent": depth, "sample": sample, "score": float(right),
                         "contained": 1.0, "rouge_l": 0.5, "judged": 7.0, "settings": "{}",
                         "document": f"{length} {depth} {sample}", "key": str(len(made))}
                    )  # fmt: skip
    return pd.DataFrame(made).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def cells(axes) -> np.ndarray:
    (mesh,) = [each for each in axes.collections if isinstance(each, QuadMesh)]
    assert mesh.get_clim() == (0, 100) and mesh.get_cmap().name == heat.COLORS
    return mesh.get_array()


def panels(figure) -> list:
    return [each for each in figure.axes if each.get_title(loc="left")]


def test_a_panel_a_model_depth_by_length():
    """Depth 0 on top, short on the left, in per cent; the mean is in the title."""
    figure = needle_heatmap(rows())
    original, cream = panels(figure)
    assert original.get_title(loc="left") == "original: 50 %"
    assert cream.get_title(loc="left") == "CREAM, yarn x8: 92 %"
    assert np.array_equal(cells(original), [[100, 100, 0, 0]] * 3)
    assert np.array_equal(cells(cream), [[100] * 4, [100, 100, 100, 0], [100] * 4])
    assert [t.get_text() for t in cream.get_xticklabels()] == ["0.6N", "N", "2N", "7.8N"]
    assert [t.get_text() for t in original.get_yticklabels()] == ["0", "50", "100"]
    low, high = original.get_ylim()
    assert low > high  # the first row is the upper one
    dashed = [line for line in cream.lines if line.is_dashed()]
    assert [line.get_xdata()[0] for line in dashed] == [2]


def test_how_many_answers_a_cell_has_is_said():
    assert "n = 2 a cell" in needle_heatmap(rows()).get_suptitle()
    uneven = rows().drop(index=0)
    assert "n = 1 to 2 a cell" in needle_heatmap(uneven).get_suptitle()


def test_a_cell_without_an_answer_stays_blank():
    given = rows(("cream",))
    absent = (given["token_length"] == 1024) & (given["depth_percent"] == 0)
    (panel,) = panels(needle_heatmap(given[~absent]))
    assert (
        np.ma.getmaskarray(cells(panel)).tolist()
        == [[False, False, True, False]] + [[False] * 4] * 2
    )


@pytest.mark.parametrize(
    ("value", "mean", "label"),
    [("contained", 100, "answer contained (%)"), ("rouge_l", 50, "ROUGE-L (%)"),
     ("judged", 70, "judge's score, 10 as 100 %")],
)  # fmt: skip
def test_other_measures(value, mean, label):
    figure = needle_heatmap(rows(), value)
    assert all((cells(panel) == mean).all() for panel in panels(figure))
    assert label in [axes.get_ylabel() for axes in figure.axes]


def test_answers_without_a_rating_are_left_out_not_wrong():
    given = rows(("cream",))
    given.loc[given["sample"] == 0, "judged"] = pd.NA
    figure = needle_heatmap(given, "judged")
    assert (cells(panels(figure)[0]) == 70).all() and "n = 1 a cell" in figure.get_suptitle()


def test_the_papers_grid_stands_beside_and_is_called_so():
    published = read_published(PAPER, "needle")
    figure = needle_heatmap(rows(), published=published)
    theirs = panels(figure)[-1]
    assert theirs.get_title(loc="left") == "paper, CREAM-Chat, rated: 98 %"
    assert [t.get_text() for t in theirs.get_xticklabels()] == [
        "0.25N", "", "2N", "", "3.7N", "", "5.4N", "", "7.1N", ""]  # fmt: skip
    found = cells(theirs)
    assert found.shape == (10, 10) and found[0, -2:].tolist() == [50, 10] and found[5, 5] == 100
    assert "n = 2 a cell" in figure.get_suptitle()


def test_scalings_and_runs():
    """Another scaling is another panel; two seeds of one method share a panel."""
    one = rows(("cream",))
    linear = one.assign(scaling="linear", model_hash="l", run="l")
    seed = one.assign(model_hash="other", run="other", score=0.0)
    figure = needle_heatmap(pd.concat([one, linear, seed]))
    titles = [panel.get_title(loc="left") for panel in panels(figure)]
    assert titles == ["CREAM, linear x8: 92 %", "CREAM, yarn x8: 46 %"]
    assert "n = 2 to 4 a cell" in figure.get_suptitle()
    assert np.array_equal(cells(panels(figure)[1]), [[50] * 4, [50, 50, 50, 0], [50] * 4])


def test_the_colours_grow_lighter_all_the_way():
    """A grey print keeps the order."""
    colors = mpl.colormaps[heat.COLORS](np.linspace(0, 1, 50))[:, :3]
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) > 0).all() and luminance[-1] > 10 * luminance[0]


def test_pass_keys_are_drawn_with_wilsons_intervals():
    given = rows(("original", "cream"), samples=4, task="passkey")
    figure = passkey_by_length(given)
    (panel,) = figure.axes
    bars = {c.get_label(): c for c in panel.containers if isinstance(c, ErrorbarContainer)}
    assert set(bars) == {"original", "CREAM"}
    assert panel.get_title(loc="left") == "Pass key, yarn x8 (n = 12)"
    (segments,) = (c.get_segments() for c in bars["CREAM"].lines[2])
    found = wilson(8, 12)
    assert segments[-1][:, 1] == pytest.approx([100 * found.low, 100 * found.high])
    assert [t.get_text() for t in panel.get_xticklabels()] == ["0.6N", "N", "2N", "7.8N"]


def test_the_same_rows_give_the_same_bytes(tmp_path):
    written = [
        save(needle_heatmap(rows()), tmp_path / name / "needle", {"rows": "x"})
        for name in ("a", "b")
    ]
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_drawn_says_why():
    given = rows()
    for draw in (needle_heatmap, passkey_by_length):
        with pytest.raises(ValueError, match="no rows to draw"):
            draw(given.iloc[:0])
        with pytest.raises(ValueError, match="24 rows have no window"):
            draw(given[given["method"] == "cream"].assign(window=pd.NA))
    with pytest.raises(ValueError, match="no row has a judged"):
        needle_heatmap(given.assign(judged=pd.NA), "judged")
    with pytest.raises(ValueError, match="no value 'nll'.*choose one of score"):
        needle_heatmap(given, "nll")
