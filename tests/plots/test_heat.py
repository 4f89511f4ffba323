"""Cells as colours: each has its value's colour and number, the first row stands on top."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from cream.plots.heat import COLORS, heat_cells
from cream.plots.style import sheet

CELLS = pd.DataFrame([[0.0, 40.0, 100.0], [np.nan, 70.0, 55.4]])


def test_cells_have_the_colours_of_their_values():
    """0 to 100 %, whatever the table's own range; a cell without a value has none."""
    (panel,) = sheet(3, 2)[1].flat
    heat_cells(panel, CELLS, ["a", "b", "c"], [])
    (mesh,) = panel.collections
    mesh.update_scalarmappable()
    found = mesh.get_facecolor().reshape(2, 3, 4)
    assert found[0, 1] == pytest.approx(colormaps[COLORS](0.4)) and found[1, 0, 3] == 0
    assert panel.get_ylim() == (2, 0)
    assert [one.get_text() for one in panel.get_xticklabels()] == ["a", "b", "c"]
    assert not panel.get_yticklabels() and not panel.texts


def test_numbers_are_dark_on_bright_cells_and_white_on_dark_ones():
    (panel,) = sheet(3, 2)[1].flat
    heat_cells(panel, CELLS, [], ["x", "y"], fontsize=7)
    said = {one.get_position(): one for one in panel.texts}
    assert {at: one.get_text() for at, one in said.items()} == {
        (0.5, 0.5): "0", (1.5, 0.5): "40", (2.5, 0.5): "100", (1.5, 1.5): "70", (2.5, 1.5): "55",
    }  # fmt: skip
    assert to_rgb(said[0.5, 0.5].get_color()) == (1, 1, 1)
    assert to_rgb(said[2.5, 0.5].get_color()) == pytest.approx((0.15,) * 3)
