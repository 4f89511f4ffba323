"""The paper's tables, drawn again: its own averages, their noise, and what does not follow."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_rows import frame
from scipy import stats

from cream.plots import published
from cream.results.published import read_published
from cream.statistics import wilson

PAPER = Path(__file__).resolve().parents[2] / "data" / "paper"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    return frame(tmp_path_factory.mktemp("rows"))


def texts(figure) -> str:
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    return " ".join([*said, *(axes.get_title(loc="left") for axes in figure.axes)])


def test_one_printed_average_does_not_follow():
    """CREAM with NTK at 140 keys, and no other of the twelve."""
    table = published.key_value_table(PAPER)
    (wrong,) = table[~table["follows"]].to_dict("records")
    assert (wrong["scaling"], wrong["keys"]) == ("ntk", 140)
    assert wrong["CREAM, printed"] == 29.9 and wrong["CREAM"] == 31.0
    assert len(table) == 6 and len(published.PRINTED_AVERAGES) == 12


def test_two_shares_have_newcombes_interval():
    """Symmetric between equal shares, true 95 times in 100 of made samples, kept at the ends."""
    found = published.two_shares(0.5, 0.5, 100)
    assert found.value == 0 and found.low == pytest.approx(-found.high)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        a, b = rng.binomial(50, [0.3, 0.2]) / 50
        interval = published.two_shares(a, b, 50)
        covered += interval.low <= 0.1 <= interval.high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 0.01
    assert published.two_shares(1.0, 0.0, 20).high == pytest.approx(1.0)


def test_the_papers_numbers_on_the_grids_endpoints():
    """By hand from the printed table: YaRN at 140 keys, middle 5.8 - 2.8, ends 84.3 - 55.3."""
    found = published.endpoints(PAPER)
    assert found["accuracy at the middle", "yarn"] == pytest.approx(3.0)
    assert found["middle of key-value pairs", "yarn"] == pytest.approx(3.0 - 29.0)
    assert found["key-value average", "linear"] == pytest.approx(39.4 - 28.68)
    assert ("lines average", "yarn") not in found


def test_figure_1_has_the_legends_averages_and_our_rows_beside_it(rows):
    """Four published curves with bands; a panel more for each scaling of ours."""
    alone = published.longchat_lines(PAPER)
    assert len(alone.axes) == 1 and len(alone.axes[0].collections) == 4
    for said in ("CREAM 69.9", "PoSE 54.0", "RandPos 0.0", "original 9.3", "n = 50"):
        assert said in texts(alone)
    bands = [band.get_paths()[0].vertices[:, 1] for band in alone.axes[0].collections]
    last = wilson(20, 50)  # CREAM's 40 % at 32,000 tokens
    assert any(np.isclose(ends, 100 * last.low).any() and np.isclose(ends, 100 * last.high).any()
               for ends in bands)  # fmt: skip
    both = published.longchat_lines(PAPER, rows[rows["task"] == "longchat_lines"])
    assert len(both.axes) == 2 and "ours, N = 512, yarn x8" in texts(both)


def test_the_key_value_figure_says_which_scalings_were_not_run(rows):
    """Six published panels, and ours below with two of three scalings empty."""
    assert len(published.lost_in_the_middle(PAPER).axes) == 6
    figure = published.lost_in_the_middle(PAPER, rows[rows["task"] == "kv_retrieval"])
    assert len(figure.axes) == 12 and texts(figure).count("not run") == 4
    gap = figure.axes[2].lines[0].get_ydata()
    yarn = read_published(PAPER, "lost_in_the_middle").query("scaling == 'yarn' and num_keys == 75")
    assert any(np.allclose(gap, part["accuracy"]) for _, part in yarn.groupby("method"))


def test_longbench_is_said_to_be_not_run_and_ours_stand_last_where_it_was(rows):
    """The miniature's made-up samples are no LongBench; a model with the window has a row."""
    assert published.NOT_RUN in published.longbench(PAPER, rows)._suptitle.get_text()
    answers = [
        {"task": f"longbench-{task}", "run": "runs/7b", "model_hash": "a", "window": window,
         "score": 0.5, "token_length": 3500, "settings": "{}", "base": "7b"}
        for task in ("qasper", "trec") for window in (4096,)
    ]  # fmt: skip
    made = pd.DataFrame(answers)
    table = published.longbench_table(PAPER, "tasks", made)
    assert table.index[-1] == "ours: runs/7b" and table.loc["ours: runs/7b", "qasper"] == 50
    assert np.isnan(table.loc["ours: runs/7b", "average"])
    small = published.longbench_table(PAPER, "tasks", made.assign(window=512))
    assert not small.index.str.startswith("ours").any()
    assert "ours below" in published.longbench(PAPER, made)._suptitle.get_text()
    other = made.assign(base="13b", model_hash="b", score=1.0)
    longer = made.assign(token_length=31500, score=0.0)
    table = published.longbench_table(PAPER, "tasks", pd.concat([made, other, longer]))
    ours = table[table.index.str.startswith("ours")]["qasper"]
    assert ours.tolist() == [50, 0, 100] and "31500 tokens" in ours.index[1]
    assert ours.index[2] == "ours: runs/7b of 13b"


def test_published_perplexities_beyond_the_axis_are_arrows():
    """The table's '>100' is not drawn as a number."""
    figure = published.perplexity(PAPER)
    arrows = sum(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "^"
                 and line.get_linestyle() == "None")  # fmt: skip
    text = (PAPER / "perplexity_clex.csv").read_text().splitlines()
    shown = [line for line in text if any(n in line for n in ("LLaMA", "PI,", "YaRN", "Naive",
                                                              "RandomPos"))]  # fmt: skip
    assert arrows == sum(line.count(">") for line in shown) > 0


def test_clexs_averages_follow_from_their_six_categories():
    """To 0.01, as they are printed; the model whose number is quoted most is 32.72."""
    table = published.longbench_table(PAPER, "clex")
    means = table.drop(columns="average").mean(axis=1)
    assert table.shape == (10, 7) and (means - table["average"]).abs().max() < 0.0051
    assert table.loc["CLEX-7B-Chat-4K", "average"] == 32.72


def test_infinitebenchs_numbers_below_5_are_arrows():
    """18 of 66 are printed as "<5"; no number is drawn for them, and none is lost."""
    table = published.infinitebench_table(PAPER)
    below = table.apply(lambda column: column.astype(str).eq("<5"))
    assert table.shape == (6, 11) and list(below.sum(axis=1)) == [1, 4, 2, 3, 3, 5]
    panel = published.clex(PAPER).axes[1]
    arrows = [line for line in panel.lines if line.get_marker() == "<"]
    dots = [line for line in panel.lines if line.get_marker() != "<"]
    assert sum(len(line.get_xdata()) for line in arrows) == below.to_numpy().sum()
    drawn = [np.isfinite(np.asarray(line.get_xdata(), float)).sum() for line in dots]
    assert drawn == list((~below).sum(axis=1))
    assert dots[4].get_label() == "CLEX-Mixtral-8x7B-Chat-32K"
    assert np.asarray(dots[4].get_xdata(), float)[1] == 76.1
