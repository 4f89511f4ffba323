"""Costs as a figure and as tables, from rows like those of one card."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from speed_rows import _pass, _speed, writer

from cream import results
from cream.performance import costs, figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    """Both methods at 8K and 64K, and full length at 256K, which does not fit; to be read alone."""
    write = writer(tmp_path_factory.mktemp("rows") / "rows.jsonl")
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
    for way, speed in (("one by one", 5.0), ("batches", 70.0), ("continuous", 8.75)):
        write("speed_generation", speed, base="small", token_length=4096, window=8192,
              contained=0.9, settings={"way": way, "samples": 40, "questions": 5, "repeats": 1,
                                       "dtype": "bfloat16", "measured": "now"})  # fmt: skip
    write("speed_generation", 0.5, token_length=32000, tokens_per_second=16000.0, settings={
        **how, "layers": 32, "of": "longchat_lines", "rows": 2})  # fmt: skip
    return _speed(write, 13_107.2)


def test_the_figure_draws_both_methods_and_marks_what_is_extrapolated(rows):
    """Every target's seconds and GiB, the card, and the axes' names."""
    figure = figures.by_target(costs.by_target(rows))
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
    notes = [text for text in figures.by_target(gone).axes[1].texts if "fit" in text.get_text()]
    assert [(text.get_text(), text.xy) for text in notes] == [
        ("full length\ndoes not fit", (262144, 139.8)),
    ]  # fmt: skip
    assert not any("fit" in t.get_text() for t in figures.by_target(table).axes[1].texts)


def test_every_card_and_shape_has_its_panels(rows):
    """Plain fine-tuning beside CREAM, a little apart."""
    table = costs.by_target(rows)
    plain = table[table["method"] == "cream"].assign(method="plain", shape="other")
    figure = figures.by_target(pd.concat([table, plain]))
    assert [axes.get_title(loc="left") for axes in figure.axes[::2]] == [
        "Time: llama2-7b, NVIDIA H200", "Time: other, NVIDIA H200"
    ]  # fmt: skip
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[2].lines}
    assert drawn["plain fine-tuning"][0] == [pytest.approx(0.92 * 8192), 8.25]
    with pytest.raises(ValueError, match="no rows of a step's cost"):
        figures.by_target(pd.DataFrame())


def test_tables_say_what_was_measured_and_by_which_command(rows):
    paid = figures.run_costs(rows).iloc[0]
    assert (paid["GPUs"], paid["base run, GPU-hours"], paid["tokens/s"]) == (
        "1 x H200", "2.78", "13,107",
    )  # fmt: skip
    assert (paid["chat run, hours"], paid["a GPU"]) == ("0.28", "13,107")
    assert paid["of as many times one"] == "" and paid["measured"] == "2026-01-01 00:00"
    assert figures.losses(rows).iloc[0]["ms"] == "12.3"
    resumed = figures.resumed(rows).iloc[0]
    assert resumed["checkpoint, written, read"] == "14 GiB, 9 s, 6 s"
    assert resumed["with all layers (extrapolated)"] == "84 GiB, 54 s, 36 s"
    assert (resumed["GPUs"], resumed["how"]) == ("1 x H200", "deterministic kernels")
    long = figures.long(rows).iloc[0]
    assert (long["tokens"], long["seconds"], long["TFLOP/s"]) == ("262,144", "41.20", "541")
    asked = figures.generation(rows).iloc[0]
    assert (asked["task"], asked["samples/s"]) == ("longchat_lines", "0.500")
    (ways,) = figures.ways(rows).to_dict("records")
    assert (ways["batches / one by one"], ways["batches / continuous"]) == ("14.0", "8.0")
    assert ways["computed, samples/s"] == "" and ways["tokens of one by one"] == "90%"
    assert ways["command"] == (
        "python -m cream.performance generation --base runs/bases/small --dtype bfloat16 "
        "--lengths 0.5 --continuous --samples 40 --questions 5 --repeats 1"
    )
    for table in (long, asked, resumed, paid):
        assert table["command"].startswith("python -m c")


def test_several_gpus_rows_stand_in_the_same_table(write):  # noqa: F811
    """As `cream.performance.multi_gpu` writes them."""
    rows = write("speed_resume", 9000.0, settings={
        "shape": "llama2-7b",
        "command": "python -m cream.performance multi-gpu", "processes": 2, "zero": 1,
        "layers": 4, "equal": {"losses": True, "norms": True, "weights": False},
        "checkpoint_gib": 14.0, "write_seconds": 9.0, "read_seconds": 6.0, "parameters": 1000,
        "full_parameters": 6000})  # fmt: skip
    line = figures.resumed(rows).iloc[0]
    assert (line["GPUs"], line["how"]) == ("2 x H200", "ZeRO-1, usual kernels")
    assert (line["losses equal"], line["weights equal"]) == (True, False)


def test_a_checkpoint_of_all_layers_is_not_extrapolated(write):  # noqa: F811
    rows = write("speed_resume", 80_000.0, settings={
        "shape": "llama2-7b",
        "command": "python -m cream.performance multi-gpu", "processes": 2, "zero": 2,
        "layers": 32, "equal": {"losses": False, "norms": False, "weights": False},
        "kernels": "deterministic", "largest_difference": 3e-4, "checkpoint_gib": 87.9,
        "write_seconds": 79.6, "read_seconds": 50.9,
        "parameters": 6000, "full_parameters": 6000})  # fmt: skip
    line = figures.resumed(rows).iloc[0]
    assert line["checkpoint, written, read"] == "88 GiB, 80 s, 51 s"
    assert line["with all layers (extrapolated)"] == "these"
    assert line["losses apart, at most"] == "3.0e-04"
    assert line["how"] == "ZeRO-2, deterministic kernels"


def test_two_gpus_speed_is_a_share_of_twice_one(write):  # noqa: F811
    _speed(write, 13_000.0)
    paid = figures.run_costs(_speed(write, 24_700.0, processes=2, zero=1))
    assert paid["GPUs"].tolist() == ["1 x H200", "2 x H200"]
    assert paid["a GPU"].tolist() == ["13,000", "12,350"]
    assert paid["of as many times one"].tolist() == ["", "95.0%"]


def test_trainings_that_must_be_equal_stand_beside_each_other(write):  # noqa: F811
    """ZeRO's stages of a shape, and the miniature by two processes, as multi-gpu writes."""
    how = {"command": "python -m cream.performance multi-gpu", "losses": [11.2, 11.1, 11.0]}
    for stage, place in ((2, "optimizer"), (1, "none")):
        write("check_sharding", 8e-4, settings={
            **how, "shape": "llama2-7b", "layers": 2, "processes": 1, "zero": stage,
            "zero_offload": place, "plain": [11.2, 11.1, 11.05]})  # fmt: skip
    rows = write("check_processes", 2.4e-7, settings={
        **how, "base": "data/miniature", "processes": 2, "one": [2.0, 1.5]})  # fmt: skip
    table = figures.sharded(rows)
    assert table["model"].tolist() == ["data/miniature", *["llama2-7b, 2 layers"] * 2]
    assert table["how"].tolist() == ["data parallel", "ZeRO-1", "ZeRO-2, optimizer in RAM"]
    assert table["losses apart, at most"].tolist() == ["2.4e-07", "8.0e-04", "8.0e-04"]
    assert table["steps"].tolist() == [2, 3, 3]
    assert table["losses of plain training"][1] == "11.2000 to 11.0500"
    assert table["GPUs"].tolist() == ["2 x H200", "1 x H200", "1 x H200"]


def test_evaluations_by_two_gpus_have_their_rows_and_times(write):  # noqa: F811
    how = {"command": "python -m cream.performance multi-gpu", "processes": 2, "rows": 400,
           "equal": True,
           "answers_differ": 0, "shape": "llama2-7b", "layers": 8, "largest_difference": 0.0,
           "wall_seconds": [29.0, 34.0]}  # fmt: skip
    asked = {name: value for name, value in how.items() if name not in ("shape", "layers")}
    write("speed_evaluation", 3000.0, preset="miniature", base="miniature", settings={
        **asked, "evaluation": "03_longchat_lines", "asked_seconds": [4.5, 3.0]})  # fmt: skip
    rows = write("speed_evaluation", 2000.0, settings={
        **how, "evaluation": "07_perplexity", "asked_seconds": [3.8, 2.0]})  # fmt: skip
    lines, text = figures.split(rows).to_dict("records")
    assert (lines["model"], text["model"]) == ("data/miniature", "llama2-7b, 8 layers")
    assert (lines["times as fast"], text["times as fast"]) == ("1.50", "1.90")
    assert (lines["asking, s"], lines["with loading, s"]) == ("4.5 -> 3.0", "29 -> 34")
    assert (lines["rows"], lines["equal"], lines["answers that differ"]) == (400, True, 0)


def test_what_clexs_ode_adds_is_said_by_head_size_and_t(write):  # noqa: F811
    rows = write("speed_clex", 14.18, method="clex", settings={
        "dim": 64, "t": 64, "command": "python -m c", "solve_ms": 7.77, "gradient_ms": 6.62,
        "longest_ms": 18.48})  # fmt: skip
    (line,) = figures.clex_steps(rows).to_dict("records")
    assert (line["head size"], line["t"], line["ms a step"]) == (64, 64, "14.2")
    assert (line["solving"], line["its gradient"], line["longest"]) == ("7.8", "6.6", "18.5")


def test_rulers_seconds_stand_a_line_a_length_and_last_all_of_it(write):
    """With the prompts and the loading in the last; tokens may be missing there."""
    how = {"command": "python -m c", "measured": "2026-01-01"}
    for length, seconds, more in ((None, 310.0, {"of": "all", "building_seconds": 40.0,
                                                 "loading_seconds": 2.0, "questions": 1200}),
                                  (4096, 8.0, {"of": "answers", "ruler6": 0.25,
                                               "questions": 600})):  # fmt: skip
        rows = write("speed_ruler", seconds, token_length=length, tokens_per_second=3e5,
                     settings={**how, **more})  # fmt: skip
    one, all_ = figures.ruler(rows).to_dict("records")
    assert (one["tokens"], one["seconds"], one["RULER-6"], one["prompts"]) == (
        "4,096", "8", "0.25", "")  # fmt: skip
    assert (all_["tokens"], all_["seconds"], all_["prompts"]) == ("all", "310", "40")


def test_11_reads_every_committed_speed_row():
    """None is left out of the tables: of each task as many lines as rows."""
    rows = costs.default_rows(ROOT)
    count = rows.groupby("task").size()
    tables = {"speed_long": "long", "speed_loss": "losses", "speed_resume": "resumed",
              "speed_evaluation": "split", "speed_clex": "clex_steps"}  # fmt: skip
    for task, name in tables.items():
        assert len(getattr(figures, name)(rows)) == count[task] > 0
    assert len(figures.attention(rows)) == count["speed_attention"] / 2  # there and back in a line
    assert len(figures.sharded(rows)) == count["check_sharding"] + count["check_processes"]
    paid, shaped = figures.run_costs(rows), rows["preset"] == "llama2-7b"
    assert len(paid) == ((rows["task"] == "speed_training") & shaped).sum()


def test_a_kernels_passes_stand_in_one_line(write):
    """Also where only one of them was measured."""
    how = {"command": "c", "heads": 9, "key_heads": 3, "head_size": 64, "windows": 4}
    for name, milliseconds, kernel in (
        ("forward", 0.86, "sdpa"), ("backward", 2.17, "sdpa"), ("forward", 1.26, "causal-fa2")
    ):  # fmt: skip
        rows = write("speed_attention", milliseconds, token_length=8192, settings={
            **how, "kernel": kernel, "pass": name, "tflops": 360.6})  # fmt: skip
    table = figures.attention(rows).set_index("kernel")
    assert table.loc["sdpa", ["heads", "tokens", "windows"]].tolist() == ["9 / 3 x 64", "8,192", 4]
    assert table.loc["sdpa", ["forward, ms", "backward, ms"]].tolist() == ["0.86", "2.17"]
    assert table["forward, TFLOP/s"].tolist() == ["361", "361"]
    assert table.loc["causal-fa2", "backward, ms"] == ""


def test_the_sentences_name_the_ratio_and_what_is_extrapolated(rows):
    said = figures.reading(costs.by_target(rows), rows)
    assert "at a target of 65,536 tokens" in said  # at 256K there is no CREAM to compare with
    assert "takes CREAM 8.2 s and full-length training 448 s (measured), 54 times" in said
    assert "fits this card up to 65,536 tokens" in said
    assert "costs 2.8 GPU-hours at best" in said


def test_nothing_measured_is_said(tmp_path):
    empty = results.read()
    assert figures.reading(costs.by_target(empty), empty) == "Nothing was run yet."
    for table in ("run_costs", "losses", "resumed", "long", "generation", "sharded", "split",
                  "clex_steps", "ruler", "ways"):
        assert getattr(figures, table)(empty).empty
