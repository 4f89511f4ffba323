"""The figure of every scaling's wavelengths."""

from __future__ import annotations

import numpy as np
import pytest

from cream import plots, rope
from cream.plots.frequencies import _LOOKS


def test_every_scaling_is_drawn_or_said():
    """DroPE, which no axis holds, in the note; the others as the formulas have them."""
    figure = plots.wavelengths(1e4, 128, 4096, (8, 64))
    assert set(_LOOKS) | {"drope"} == set(rope.KINDS)
    assert "DroPE, 1e12" in figure._supxlabel.get_text()
    for panel, scale in zip(figure.axes, (8, 64), strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in panel.lines}
        assert drawn["linear by s"] == pytest.approx(np.full(64, scale))
        assert drawn["NTK by s"][-1] == pytest.approx(scale)
        assert drawn["CLEX before training, t = s"][-1] == pytest.approx(2 * scale - 1)
        assert (drawn["CoPE, any s"] > 1.001).sum() == 17  # 18 are clipped, the first by nothing
