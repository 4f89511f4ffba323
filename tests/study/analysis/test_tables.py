"""Tables say what the runs say, and what was not run."""

from made_grid import runs as made_runs

from cream.study.analysis import contrasts, tables


def test_the_table_has_every_comparison_with_its_interval_n_and_verdict(grid_runs):
    """The values are those of `claims.contrasts`; what has no run is named instead."""
    table = tables.table(grid_runs, ["ablations"]).set_index("claim")
    found = contrasts.contrasts(grid_runs, ("ablations",)).set_index("claim")
    for name, row in table.iterrows():
        value = found.loc[name, "value"]
        assert row["difference"].startswith(f"{value:+.1f} [") and row["n"] == 6
        assert row["verdict"] == found.loc[name, "verdict"]
    lacking = tables.not_run(grid_runs, ["ablations"])
    assert not {line.split(" (")[0] for line in lacking} & set(table.index)
    less = grid_runs[grid_runs["variant"] != "uniform"]
    assert set(tables.not_run(less, ["ablations"])) - set(lacking) == {
        "gaussian over uniform (plan ablations)", "gaussian over uniform, middle (plan ablations)",
    }  # fmt: skip
    assert set(tables.table(less, ["ablations"])["claim"]) == {
        name for name in table.index if not name.startswith("gaussian")
    }


def test_without_any_run_everything_is_said_to_be_not_run(tmp_path):
    """No file, no table, no figure; nothing raises but the figures themselves."""
    frame, runs = tables.load(tmp_path / "grid.parquet")
    assert frame.empty and runs.empty and tables.table(runs, ["ablations"]).empty
    named = tables.not_run(runs, ["ablations", "scale64"])
    assert len(named) == sum(claim.plan in ("ablations", "scale64") for claim in contrasts.CLAIMS)
    assert tables.counts(runs).empty


def test_a_comparison_of_models_at_0_says_so_beside_its_verdict():
    """Linear at this size: a verdict by equivalence of two models that can do nothing."""
    nothing = made_runs({"cream": 0.0, "pose": 0.0}, of_base=0.0, of_run=0.0)
    table = tables.table(nothing, ["primary"]).set_index("claim")
    assert table.loc["lines average", "verdict"] == "both near 0"
    assert table.loc["lines average", "difference"] == "+0.0 [+0.0, +0.0]"


def test_unlike_data_have_no_verdict(grid_runs):
    """Comparisons with a flagged variant, where it is flagged."""
    flags = {"text": [], "mixed": ["plain"]}
    table = tables.table(grid_runs, ["primary"], flags)
    verdicts = table.set_index(["b", "condition"])["verdict"]
    assert set(verdicts["plain", "mixed"]) == {"data differ"}
    assert "data differ" not in set(verdicts["plain", "text"])


def test_levels_are_a_row_a_variant_and_a_column_a_setting(grid_runs):
    """The mean over bases of means over seeds; untuned models in columns of their own."""
    wide = tables.levels(grid_runs, "lines")
    mine = "plan == 'primary' and variant == 'cream' and condition == 'text' and scaling == 'yarn'"
    value = grid_runs.query(mine).groupby("base")["lines"].mean().mean()
    assert wide.loc["cream", ("text", "yarn")].startswith(f"{value:.1f} [")
    assert list(wide.index)[0] == "original" and wide.loc["cream", ("none", "yarn")] == ""
    assert wide.columns[0][0] == "text" and wide.columns[-1][0] == "none"
    assert tables.levels(grid_runs.iloc[:0], "lines").empty
