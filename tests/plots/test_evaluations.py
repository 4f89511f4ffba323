"""Every figure draws from made rows, with intervals, one look a method, and stable bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_rows import frame, metrics
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from PIL import Image

from cream import results
from cream.plots import evaluations, positions, style
from cream.plots.style import save
from cream.positions import METHODS, coverage, sampler
from cream.results.published import read_published

PAPER = Path(__file__).resolve().parents[2] / "data" / "paper"


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    return frame(tmp_path_factory.mktemp("rows"))


def of(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    return rows[rows["task"] == task]


def bars(axes) -> list[ErrorbarContainer]:
    return [c for c in axes.containers if isinstance(c, ErrorbarContainer)]


def lightness(color: str) -> float:
    """CIE L* of a colour, 0 (black) to 100."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    y = float(np.dot([0.2126, 0.7152, 0.0722], linear))
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_a_method_looks_like_no_other_and_prints_in_grey():
    """Colour, marker and line are all distinct; the four main methods differ in lightness."""
    looks = [style.style(m) for m in ("original", "scaled", *METHODS)]
    for field in ("label", "color", "marker", "line"):
        assert len({str(getattr(look, field)) for look in looks}) == len(looks)
    four = sorted(lightness(style.style(m).color) for m in ("original", "scaled", "pose", "cream"))
    assert min(np.diff(four)) > 12
    assert style.style("cream-sigma1") == style.style("cream-sigma1")
    assert style.in_order(["cream", "zeta", "pose", "original"])[-2:] == ["cream", "zeta"]


def test_a_point_without_an_interval_has_no_bar(rows):
    """Samples of one record have no interval; caps at the point would be one of no width."""
    lines = of(rows, "longchat_lines")
    figure = evaluations.accuracy_by_length(lines.assign(document="one record"))
    found = [bar for axes in figure.axes for bar in bars(axes)]
    caps = np.concatenate([cap.get_ydata() for bar in found for cap in bar.lines[1]])
    assert len(caps) and np.isnan(caps).all()


def test_accuracy_by_length_draws_each_method_with_its_interval(rows):
    """A bar for every length measured; the values are those of the rows."""
    figure = evaluations.accuracy_by_length(of(rows, "longchat_lines"))
    (axes,) = figure.axes
    assert len(bars(axes)) == 4
    for container in bars(axes):
        (segments,) = (c.get_segments() for c in container.lines[2])
        assert len(segments) == 6 and all(s[1][1] - s[0][1] > 5 for s in segments)
    cream = next(c for c in bars(axes) if c.get_label() == "CREAM")
    ours = of(rows, "longchat_lines").query("method == 'cream'")
    expected = 100 * ours.groupby("token_length")["score"].mean()
    assert cream.lines[0].get_ydata() == pytest.approx(expected.to_numpy(float))
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.6N", "N", "2N", "4N", "6N", "7.8N"]


def test_published_curves_are_thin_dashed_and_labelled(rows):
    """They are drawn in the method's colour and only for methods that were measured."""
    published = read_published(PAPER, "longchat_lines")
    figure = evaluations.accuracy_by_length(of(rows, "longchat_lines"), published)
    theirs = [line for line in figure.axes[0].lines if "paper" in str(line.get_label())]
    assert {line.get_color() for line in theirs} == {
        style.style(m).color for m in ("original", "pose", "cream")
    }
    assert all(line.get_linewidth() < 1 and line.is_dashed() for line in theirs)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "paper, Llama-2-7B, linear" in texts and texts[:2] == ["original", "scaled, untuned"]


def test_accuracy_by_position_has_a_panel_a_size(rows):
    """Two sizes, five places each, and the paper's two sizes beside them."""
    published = read_published(PAPER, "lost_in_the_middle")
    yarn = published[published["scaling"] == "yarn"]
    figure = evaluations.accuracy_by_position(of(rows, "kv_retrieval"), yarn)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "23 keys, 1.2 N (n = 20)", "47 keys, 2.4 N (n = 20)"]  # fmt: skip
    assert all(len(bars(axes)) == 4 for axes in figure.axes)
    assert all(len(published_lines(axes)) == 2 for axes in figure.axes)


def published_lines(axes) -> list[Line2D]:
    return [line for line in axes.lines if str(line.get_label()).startswith("_paper")]


def test_published_places_stand_beside_objects_of_their_size_alone(rows):
    """They stood beside any two sizes: those of 75 keys, 1.2 N, beside objects of 0.5 N."""
    published = read_published(PAPER, "lost_in_the_middle")
    yarn, pairs = published[published["scaling"] == "yarn"], of(rows, "kv_retrieval")
    half = pairs.assign(token_length=pairs["token_length"] // 2)  # 0.6 and 1.2 N
    figure = evaluations.accuracy_by_position(half, yarn)
    assert [len(published_lines(axes)) for axes in figure.axes] == [0, 2]
    other = evaluations.accuracy_by_position(pairs.assign(token_length=pd.NA), yarn)
    assert not any(published_lines(axes) for axes in other.axes)
    assert "paper, Llama-2-7B" not in [one.get_text() for one in other.legends[0].get_texts()]
    as_many = pairs.assign(token_length=pd.NA, num_keys=pairs["num_keys"].map({23: 75, 47: 300}))
    figure = evaluations.accuracy_by_position(as_many, yarn)
    assert [len(published_lines(axes)) for axes in figure.axes] == [2, 0]


def test_perplexity_is_logarithmic_only_where_it_must_be(rows):
    """Far apart on a log scale, close together on a plain one."""
    nll = of(rows, "perplexity")
    assert evaluations.perplexity_by_length(nll).axes[0].get_yscale() == "log"
    close = nll[nll["method"].isin(["pose", "cream"])]
    figure = evaluations.perplexity_by_length(close)
    assert figure.axes[0].get_yscale() == "linear" and len(bars(figure.axes[0])) == 2
    assert figure.axes[0].get_title(loc="left") == "Perplexity, yarn x8 (n = 10 documents)"


def test_several_models_of_a_method_are_the_units(tmp_path):
    """With three seeds the interval is over seeds, not over their pooled samples."""
    made = frame(tmp_path, methods=("cream",), seeds=(0, 1, 2))
    table = evaluations.by_method(of(made, "longchat_lines"), ["token_length"])
    assert set(table["runs"]) == {3} and set(table["n"]) == {150}
    assert set(table["unit"]) == {"model"}
    assert len(bars(evaluations.accuracy_by_length(of(made, "longchat_lines")).axes[0])) == 1


def test_scalings_and_scales_are_kept_apart(rows):
    """A panel each, the unscaled model in both; one figure by position draws only one of them."""
    lines = of(rows, "longchat_lines")
    tuned = lines[lines["scaling"] == "yarn"]
    wider = tuned.assign(scale=64, model_hash=tuned["model_hash"] + "w", key=tuned["key"] + "w")
    figure = evaluations.accuracy_by_length(pd.concat([lines, wider]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["LongChat-Lines, yarn x8 (n = 50)", "LongChat-Lines, yarn x64 (n = 50)"]
    assert all(len(bars(axes)) == 4 for axes in figure.axes)
    pairs = of(rows, "kv_retrieval")
    with pytest.raises(ValueError, match="yarn x8, yarn x16; choose one"):
        more = pairs[pairs["scaling"] == "yarn"].assign(scale=16)
        evaluations.accuracy_by_position(pd.concat([pairs, more]))


def test_training_curves_read_what_training_writes(tmp_path):
    """Loss and probe come from metrics.jsonl, a torn last line left out."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(m) + "\n" for m in metrics("cream")) + '{"step": 10')
    read = evaluations.training_metrics(tmp_path)
    assert len(read) == len(metrics("cream"))
    figure = evaluations.training_curves({"cream": read, "pose": pd.DataFrame(metrics("pose"))})
    assert len(figure.axes[0].lines) == 2 and len(bars(figure.axes[1])) == 2
    only_loss = read.drop(columns=["probe_lines", "probe_n"])
    assert not bars(evaluations.training_curves({"cream": only_loss}).axes[1])
    with pytest.raises(FileNotFoundError, match="train the run first"):
        evaluations.training_metrics(tmp_path / "nowhere")


def test_what_cannot_be_drawn_says_why(rows, tmp_path):
    """No rows, rows without a needed column, no metrics, no such published table."""
    with pytest.raises(ValueError, match="no rows to draw"):
        evaluations.accuracy_by_length(rows.iloc[:0])
    with pytest.raises(ValueError, match="rows have no window"):
        evaluations.accuracy_by_length(of(rows, "longchat_lines").assign(window=pd.NA))
    with pytest.raises(ValueError, match="no metrics to draw"):
        evaluations.training_curves({})
    with pytest.raises(FileNotFoundError, match="there are: .*longchat_lines"):
        read_published(PAPER, "longchat")
    with pytest.raises(ValueError, match="no documents"):
        evaluations.document_lengths(pd.DataFrame({"num_tokens": [], "kind": []}), 512, 4096)


def test_document_lengths_counts_every_document():
    """Nothing falls outside the bins."""
    lengths = pd.DataFrame({"num_tokens": [512, 513, 9000, 4096], "kind": ["text"] * 3 + ["lines"]})
    axes = evaluations.document_lengths(lengths, 512, 4096).axes[0]
    total = sum(patch.get_height() for container in axes.containers for patch in container)
    assert total == 4 and "text (3)" in axes.get_legend_handles_labels()[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "one", "mass"),
    [("cream", {"mode": "relativity"}, 0.286, 0.354),
     ("cream", {"mode": "continuity"}, 0.351, 0.970), ("pose", {}, 0.214, 0.693),
     ("pose-v1", {}, 0.200, 0.752), ("randpos", {}, 0.998, 0.234), ("full", {}, 1.0, 0.234),
     ("plain", {}, 0.125, 1.0)],
)  # fmt: skip
def test_coverage_is_what_the_releases_were_measured_to_cover(method, options, one, mass):
    """Protocols 1.3: distances one example covers, and pairs below N, at N = 4,096 and s = 8."""
    draw = sampler(method, 4096, 8, **options)
    assert coverage.single_coverage(draw, 40_000, 150).mean() == pytest.approx(one, abs=0.02)
    assert coverage.pair_mass(draw, 40_000, 150)[0] == pytest.approx(mass, abs=0.03)


@pytest.mark.parametrize(
    ("scale", "mean", "mode", "centre"),
    [(8, 9, "relativity", 0.333), (8, 9, "continuity", 0.465), (64, 65, "relativity", 0.333),
     (64, 65, "continuity", 0.465), (64, 9, "relativity", 0.042), (64, 9, "continuity", 0.055)],
)  # fmt: skip
def test_the_middle_lands_where_the_releases_put_it(scale, mean, mode, centre):
    """Protocols 1.2, from 40,000 draws of the releases."""
    centres = coverage.middle_centres(4096, scale, mode, 1500, mean=mean)
    assert centres.mean() == pytest.approx(centre, abs=0.02)


@pytest.mark.parametrize("assigned", [
    [0, 1, 2, 9, 14, 15], [3], range(40), range(24, 40), range(0, 40, 2),
    [0, 1, 5, 7, 10, 12, 15, 17, 20, 22, 25, 30, 33, 39], [39, 1, 0],
])  # fmt: skip
def test_distance_counts_are_counted(assigned):
    """Against every pair, one by one: of few runs of positions, and of many."""
    assigned = np.array(assigned)
    pairs = np.abs(assigned[:, None] - assigned[None, :])[np.triu_indices(len(assigned))]
    expected = np.bincount(pairs, minlength=40)
    assert coverage.distance_counts(assigned, 40).tolist() == expected.tolist()
    twice = coverage.total_counts([assigned, np.arange(40), assigned], 40)
    assert twice.tolist() == (2 * expected + np.arange(40, 0, -1)).tolist()


def pictures() -> dict:
    samplers = {m: sampler(m, 512, 8) for m in METHODS}
    return {
        "indices": positions.indices_picture(samplers, 5000),
        "coverage": positions.distance_coverage(samplers, 5000, examples=20),
        "middle": positions.middle_histogram(1024, examples=50),
    }


def test_pictures_of_the_method_draw_every_method():
    """A strip an example, a curve a method, four panels."""
    made = pictures()
    assert len(made["indices"].axes[0].images) == 6 * len(METHODS)
    assert len(made["coverage"].axes[0].lines) == len(METHODS)
    assert len(made["middle"].axes) == 4


def test_a_run_without_a_gap_is_drawn_in_full_colour():
    """Whatever share of a column's positions a window that columns do not divide leaves it."""
    picture = positions.indices_picture({"full": sampler("full", 512, 8)}, 5000)
    assert all((image.get_array()[0, :, 3] == 1).all() for image in picture.axes[0].images)


def test_saved_figures_carry_their_rows_and_commit(rows, tmp_path):
    """In the PNG's text and the PDF's keywords; nothing is left beside them."""
    figure = evaluations.accuracy_by_length(of(rows, "longchat_lines"))
    png, pdf = save(figure, tmp_path / "out" / "lines", results.drawn_from(rows))
    assert [p.name for p in sorted(png.parent.iterdir())] == ["lines.pdf", "lines.png"]
    text = Image.open(png).text
    assert text == {"Rows": results.drawn_from(rows)["rows"], "Commit": "0123abc"}
    assert b"0123abc" in pdf.read_bytes() and b"CreationDate" not in pdf.read_bytes()


DRAW = """
import sys
sys.path[:0] = {tests!r}
from test_evaluations import *
made = frame(Path({rows!r}))
figure = evaluations.accuracy_by_length(of(made, "longchat_lines"))
save(figure, Path({out!r}) / "lines", results.drawn_from(made))
samplers = {{m: sampler(m, 512, 8) for m in METHODS}}
picture = positions.indices_picture(samplers, 5000)
save(picture, Path({out!r}) / "indices", {{"commit": "x"}})
"""

HERE = Path(__file__).resolve().parent
PLACES = [str(HERE), str(HERE.parent / "support")]


@pytest.mark.slow
def test_the_same_rows_give_the_same_bytes_in_any_process(tmp_path):
    """Two processes with different hash seeds write equal files."""
    for name in ("1", "2"):
        code = DRAW.format(tests=PLACES, rows=str(tmp_path / f"rows{name}"),
                           out=str(tmp_path / name))  # fmt: skip
        subprocess.run([sys.executable, "-c", code], check=True,
                       env={**os.environ, "PYTHONHASHSEED": name})  # fmt: skip
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes(), path.name


def test_a_failed_save_leaves_nothing(rows, tmp_path, monkeypatch):
    """A full disk leaves no half figure."""
    figure = evaluations.accuracy_by_length(of(rows, "longchat_lines"))

    def full(path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        save(figure, tmp_path / "lines", {})
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_a_figure_without_pyplot(rows):
    """As PNG bytes, the same each time, and the reader's own settings stay as they were."""
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figure = evaluations.perplexity_by_length(of(rows, "perplexity"))
    assert figure._repr_png_() == figure._repr_png_() and dict(mpl.rcParams) == before
    assert figure._repr_png_().startswith(b"\x89PNG")
