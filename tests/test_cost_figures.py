"""Costs as a figure and as tables, from rows like those of one card."""

from __future__ import annotations

import pandas as pd
import pytest
from test_costs import _pass, _speed, write  # noqa: F401

from cream import cost_figures, costs, results


@pytest.fixture
def rows(write) -> pd.DataFrame:  # noqa: F811
    """Both methods at 8K and 64K, and full length at 256K, which does not fit."""
    for target, seconds in ((8192, 0.6), (65536, 14.0)):
        _pass(write, "cream", target, 0.5, tokens=4096, micro_batch=2, peak=34.0, card_gib=139.8)
        _pass(write, "full", target, seconds, peak=30.0 + seconds, card_gib=139.8)
    _pass(write, "full", 262144, None, layers=None, why="too large")
    for depth in (2, 4):
        _pass(write, "full", 262144, 1 + 5.0 * depth, layers=depth, peak=18 + 3.0 * depth)
    how = {"shape": "llama2-7b", "command": "python -m c"}
    write("speed_optimizer", 250.0, method="step", settings={**how, "offload": "none"})
    write("speed_loss", 12.3, num_tokens=8192, peak_gib=1.5, settings={
        **how, "way": "ours", "head_gradient_error": 0.003})  # fmt: skip
    write("speed_resume", 9000.0, settings={
        **how, "layers": 4, "kernels": "deterministic", "losses_equal": True,
        "weights_equal": True, "checkpoint_gib": 14.0, "write_seconds": 9.0, "read_seconds": 6.0,
        "parameters": 1000, "full_parameters": 6000})  # fmt: skip
    write("speed_long", 41.2, token_length=262144, peak_gib=36.8, settings={
        **how, "layers": 32, "tile": "auto", "heads": 8, "tflops": 541.2})  # fmt: skip
    write("speed_generation", 0.5, token_length=32000, tokens_per_second=16000.0, settings={
        **how, "layers": 32, "of": "longchat_lines", "rows": 2})  # fmt: skip
    return _speed(write, 13_107.2)


def test_the_figure_draws_both_methods_and_marks_what_is_extrapolated(rows):
    """Every target's seconds and GiB, the card, and the axes' names."""
    figure = cost_figures.by_target(costs.by_target(rows))
    time, memory = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"CREAM", "full length", "full length, extrapolated"} <= set(labels)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in time.lines}
    assert drawn["CREAM"] == [[8192, 8.25], [65536, 8.25]]
    assert drawn["full length, extrapolated"] == [[262144, pytest.approx(32 * 161 + 0.25)]]
    ticks = [label.get_text() for label in time.get_xticklabels()]
    assert ticks == ["8K", "64K", "256K"]
    assert any(line.get_ydata()[0] == 139.8 for line in memory.lines)
    assert time.get_ylabel() == "step of 32 examples (s)" and figure._repr_png_()


def test_what_does_not_fit_is_said_at_its_length(rows):
    """Where its memory would stand: at the card's own."""
    table = costs.by_target(rows)
    largest = (table["method"] == "full") & (table["target"] == 262144)
    gone = table.assign(kind=table["kind"].where(~largest, "does not fit"))
    gone.loc[largest, ["step", "gib", "held"]] = None
    notes = [
        text for text in cost_figures.by_target(gone).axes[1].texts if "fit" in text.get_text()
    ]
    assert [(text.get_text(), text.xy) for text in notes] == [
        ("full length\ndoes not fit", (262144, 139.8)),
    ]  # fmt: skip
    assert not any("fit" in t.get_text() for t in cost_figures.by_target(table).axes[1].texts)


def test_a_figure_is_of_one_card(rows):
    table = costs.by_target(rows)
    with pytest.raises(ValueError, match="one card and one shape"):
        cost_figures.by_target(pd.concat([table, table.assign(card="other")]))
    with pytest.raises(ValueError, match="one card"):
        cost_figures.by_target(pd.DataFrame())


def test_tables_say_what_was_measured_and_by_which_command(rows):
    paid = cost_figures.run_costs(rows).iloc[0]
    assert (paid["GPUs"], paid["base run, GPU-hours"], paid["tokens/s"]) == (
        "1 x H200", "2.78", "13,107",
    )  # fmt: skip
    assert cost_figures.losses(rows).iloc[0]["ms"] == "12.3"
    resumed = cost_figures.resumed(rows).iloc[0]
    assert resumed["checkpoint, written, read"] == "14 GiB, 9 s, 6 s"
    assert resumed["with all layers (extrapolated)"] == "84 GiB, 54 s, 36 s"
    assert (resumed["GPUs"], resumed["how"]) == ("1 x H200", "deterministic kernels")
    long = cost_figures.long(rows).iloc[0]
    assert (long["tokens"], long["seconds"], long["TFLOP/s"]) == ("262,144", "41.20", "541")
    asked = cost_figures.generation(rows).iloc[0]
    assert (asked["task"], asked["samples/s"]) == ("longchat_lines", "0.500")
    for table in (long, asked, resumed, paid):
        assert table["command"].startswith("python -m c")


def test_several_gpus_rows_stand_in_the_same_table(write):  # noqa: F811
    """As `cream.several` writes them."""
    rows = write("speed_resume", 9000.0, settings={
        "shape": "llama2-7b", "command": "python -m cream.several", "processes": 2, "zero": 1,
        "layers": 4, "equal": {"losses": True, "norms": True, "weights": False},
        "checkpoint_gib": 14.0, "write_seconds": 9.0, "read_seconds": 6.0, "parameters": 1000,
        "full_parameters": 6000})  # fmt: skip
    line = cost_figures.resumed(rows).iloc[0]
    assert (line["GPUs"], line["how"]) == ("2 x H200", "ZeRO-1")
    assert (line["losses equal"], line["weights equal"]) == (True, False)


def test_the_sentences_name_the_ratio_and_what_is_extrapolated(rows):
    said = cost_figures.reading(costs.by_target(rows), rows)
    assert "at a target of 65,536 tokens" in said  # at 256K there is no CREAM to compare with
    assert "takes CREAM 8.2 s and full-length training 448 s (measured), 54 times" in said
    assert "fits this card up to 65,536 tokens" in said
    assert "costs 2.8 GPU-hours at best" in said


def test_nothing_measured_is_said(tmp_path):
    empty = results.read()
    assert cost_figures.reading(costs.by_target(empty), empty) == "Nothing was run yet."
    for table in ("run_costs", "losses", "resumed", "long", "generation"):
        assert getattr(cost_figures, table)(empty).empty
