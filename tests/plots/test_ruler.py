"""RULER's heat map: cells are means in per cent, blanks stay blank, N is where it belongs."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from ruler_rows import ruler_rows

from cream.plots import task_heatmap
from cream.tasks.ruler import TASKS

LENGTHS = (512, 1024, 4096)


def skill(method, task, length, sample):
    """The original all up to N; CREAM a share that falls with the length, nothing of cwe."""
    if method == "original":
        return float(length <= 512)
    return 0.0 if task == "cwe" else 512 / length


def panels(figure):
    return [each for each in figure.axes if each.get_title(loc="left")]


def cells(axes) -> np.ndarray:
    (mesh,) = [each for each in axes.collections if isinstance(each, QuadMesh)]
    assert mesh.get_clim() == (0, 100)
    return np.ma.filled(mesh.get_array().astype(float), np.nan)


def test_a_panel_a_model_and_a_line_a_task():
    figure = task_heatmap(ruler_rows(skill))
    original, cream = panels(figure)
    assert original.get_title(loc="left") == "original"
    assert cream.get_title(loc="left") == "CREAM, yarn x8"
    assert [t.get_text() for t in original.get_yticklabels()] == [*TASKS, "RULER-6"]
    assert [t.get_text() for t in cream.get_xticklabels()] == ["N", "2N", "8N"]
    assert np.array_equal(cells(original), [[100, 0, 0]] * 7)
    wanted = [[100, 50, 12.5]] * 4 + [[0, 0, 0]] + [[100, 50, 12.5]]
    assert cells(cream) == pytest.approx(np.array([*wanted, np.mean(wanted, 0)]))


def test_what_was_not_asked_is_blank_and_so_is_its_mean():
    rows = ruler_rows(skill, ["cream"])
    left_out = (rows["task"] == "ruler-vt") & (rows["token_length"] == 512)
    (panel,) = panels(task_heatmap(rows[~left_out]))
    blank = np.isnan(cells(panel))
    assert blank[TASKS.index("vt"), 0] and blank[6, 0] and blank.sum() == 2


def test_the_dashed_line_stands_after_the_last_length_of_the_window():
    """One line at N; none where all lengths lie on one side of it."""

    def dashed(figure):
        return [line.get_xdata()[0] for line in panels(figure)[0].lines
                if line.get_linestyle() == "--"]  # fmt: skip

    assert dashed(task_heatmap(ruler_rows(skill, ["cream"]))) == [1]
    assert dashed(task_heatmap(ruler_rows(skill, ["cream"], LENGTHS[1:]))) == []


def test_windows_are_not_mixed_and_n_is_said():
    rows = ruler_rows(skill, ["cream"], samples=3)
    assert "N = 512; n = 3 a cell" in task_heatmap(rows).get_suptitle()
    other = rows.assign(window=1024)
    other.loc[:2, "window"] = 512
    with pytest.raises(ValueError, match=r"rows of windows \[.*512.*1024.*\]; draw one at a time"):
        task_heatmap(other)
    with pytest.raises(ValueError, match="12_ruler"):
        task_heatmap(rows.iloc[:0])
