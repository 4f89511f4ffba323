"""REPRODUCTION.md says what the rows say, claim by claim, and none of the claims is left out."""

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from made_campaign import campaign

from cream import claims, reproduction, results
from cream.paper_claims import ENTRIES, Evidence

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "data" / "paper"
NONE = pd.DataFrame(columns=["claim", "n", "condition", "scaling"])
# As the issue lists them.
ASKED = (
    "LongChat-Lines average", "middle positions of key-value", "linear", "NTK", "YaRN",
    "Gaussian over uniform", "Both modes", "Sigma 3", "0 beyond N", "RandPos is 0",
    "perplexity to the target", "perplexity at 64", "Needle", "Short tasks", "tenth of the steps",
    "cost is flat",
)  # fmt: skip


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    runs = claims.units(campaign(("primary", "ablations"), samples=4))
    return Evidence(runs, claims.contrasts(runs), pd.DataFrame())


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """What the command makes of the committed rows."""
    return reproduction.parts([ROOT / "data" / "results"], PAPER)


def test_the_committed_file_says_what_the_rows_say(made):
    """Every part; if not, the lines that differ: python -m cream.reproduction --out ..."""
    text = (ROOT / "REPRODUCTION.md").read_text(encoding="utf-8")
    wrong = reproduction.check(text, made)
    assert not wrong, "\n".join(wrong)


def test_a_changed_number_in_the_file_is_found(made):
    """One digit of one cell, and a row that is gone."""
    text = reproduction.fill((ROOT / "REPRODUCTION.md").read_text(encoding="utf-8"), made)
    assert reproduction.check(text, made) == []
    other = text.replace("+15.9 points", "+16.9 points")
    (was, now) = reproduction.check(other, made)
    assert was.startswith("- | LongChat") and "+16.9" in was and "+15.9" in now
    lines = [line for line in text.splitlines() if not line.startswith("| RandPos is 0")]
    assert [line[:16] for line in reproduction.check("\n".join(lines), made)] == [
        "+ | RandPos is 0"
    ]


def test_every_claim_of_the_issue_has_one_row(evidence):
    """With and without runs; what was not run says so."""
    for found in (evidence, Evidence(pd.DataFrame(), NONE, pd.DataFrame())):
        table = reproduction.summary(found, PAPER)
        titles = list(table["claim"])
        assert len(titles) == len(ENTRIES) == len(ASKED)
        for name, title in zip(ASKED, titles, strict=True):
            assert name in title
    assert set(table["verdict"]) == {"not run"}
    assert all(table["the paper says"].str.len() > 10) and all(table["command"].str.len() > 10)


def test_a_row_says_difference_interval_n_seeds_bases_and_verdict(evidence):
    """Those of the contrast in the paper's own setting; the verdict counts every setting."""
    table = reproduction.summary(evidence, PAPER).set_index("claim")
    row = table.loc["LongChat-Lines average"]
    found = evidence.contrasts
    same = found[found["claim"] == "lines average"]
    first = same[(same["condition"] == "text") & (same["scaling"] == "linear")].iloc[0]
    assert "+15.9 points over PoSE (69.9 against 54.0" in row["the paper says"]
    assert f"text, linear: CREAM - PoSE, lines: {first['value']:+.1f}" in row.iloc[1]
    assert row["95 % interval"] == f"[{first['low']:+.1f}, {first['high']:+.1f}]"
    assert row["n, seeds, bases"] == "n = 6: 2 seeds, 3 bases"
    for verdict in set(same["verdict"]):
        assert verdict in row["verdict"]
    details = reproduction.details(evidence, PAPER)
    assert len(details) == (found["n"] > 0).sum()


def contrast(claim: str, verdict: str, **other: object) -> dict:
    return {
        "claim": claim, "plan": "ablations", "condition": "text", "scaling": "yarn", "a": "cream",
        "b": "x", "endpoint": "lines", "value": 1.0, "low": 0.5, "high": 1.5, "seeds_low": 0.9,
        "seeds_high": 1.1, "n": 6, "seeds": 2, "bases": 3, "level_a": 51.0, "level_b": 50.0,
        "holm": float("nan"), "verdict": verdict, "family": "secondary", **other,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "two", "says"),
    [("holds", "holds", "**holds**"), ("holds", "cannot tell", "**cannot tell**"),
     ("holds", "does not hold", "**does not hold**"),
     ("cannot tell", "does not hold", "**does not hold**")],
)  # fmt: skip
def test_both_modes_must_both_be_needed(one, two, says):
    """A claim of several comparisons holds where all of them do."""
    rows = [contrast("both modes: without relativity", one),
            contrast("both modes: without continuity", two)]  # fmt: skip
    table = reproduction.summary(
        Evidence(pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame()), PAPER
    )
    assert table.set_index("claim").loc["Both modes are needed", "verdict"] == says


def test_settings_that_disagree_are_counted():
    """Not averaged into one word."""
    rows = [contrast("lines average", verdict, condition=condition, scaling=scaling)
            for verdict, condition, scaling in (("holds", "text", "linear"),
                                                ("does not hold", "text", "ntk"),
                                                ("holds", "mixed", "ntk"))]  # fmt: skip
    table = reproduction.summary(
        Evidence(pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame()), PAPER
    )
    assert table["verdict"].iloc[0] == "**holds in 2; does not hold in 1** of 3 settings"


def test_comparisons_of_unlike_data_are_no_results():
    """A flagged variant's setting is left out of the count and in brackets in the long table."""
    rows = [contrast("lines average", "holds", condition=condition, family=family)
            for condition, family in (("text", "primary"), ("mixed", "sensitivity"))]  # fmt: skip
    found = Evidence(pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame())
    verdict = reproduction.summary(found, PAPER)["verdict"].iloc[0]
    assert verdict == "**holds**; 1 left out, where the data differ"
    said = reproduction.details(found, PAPER)["verdict"].tolist()
    assert said == ["holds", "(holds: the data differ)"]


def test_a_tenth_of_the_steps_is_paired_by_base_and_seed():
    """Runs of the same base and seed, whose steps are as 1 to 10; others are not compared."""
    runs = pd.DataFrame(
        {"variant": "cream", "scale": 8, "condition": "text", "scaling": "yarn", "steps": steps,
         "base": base, "seed": seed,
         "lines": {100: 59.0 - 0.1 * seed, 300: 30.0, 1000: 60.0}[steps] + number}
        for number, base in enumerate("ab") for seed in (0, 1) for steps in (100, 1000, 300)
    )  # fmt: skip
    table = reproduction.summary(Evidence(runs, NONE, pd.DataFrame()), PAPER).set_index("claim")
    row = table.loc["A tenth of the steps for chat"]
    assert row.iloc[1].startswith("text, yarn: base model: -1.1") and "holds" in row["verdict"]
    assert row["n, seeds, bases"] == "n = 4: 2 seeds, 2 bases"


def test_the_cost_is_read_from_whole_models_and_compared_over_targets():
    """Milliseconds at each target; not of shallow models, which stand for what does not fit."""

    def row(method: str, target: int, score: float, layers: int = 32) -> dict:
        settings = f'{{"layers": {layers}, "of_layers": 32}}'
        return {
            "task": "speed_efficiency",
            "method": method,
            "token_length": target,
            "score": score,
            "settings": settings,
            "preset": "llama2-7b",
            "card": "H200",
        }

    rows = [row("cream", 8192, 1000.0), row("cream", 262144, 1010.0), row("full", 8192, 2000.0),
            row("full", 16384, 4000.0), row("cream", 4096, 10.0, layers=2)]  # fmt: skip
    for slower, verdict in ((1010.0, "**holds**"), (1200.0, "**does not hold**")):
        rows[1]["score"] = slower
        found = Evidence(pd.DataFrame(), NONE, pd.DataFrame(rows))
        last = reproduction.summary(found, PAPER).iloc[-1]
        assert f"1,000 to {slower:,.0f} ms" in last.iloc[2] and last["verdict"] == verdict
        assert "full length 2,000 ms at 8,192 and 4,000 at 16,384" in last.iloc[2]


def test_the_slip_of_the_published_table_is_listed():
    """One average that does not follow from its row."""
    said = reproduction.slips(PAPER)
    assert re.fullmatch(r"- Key-value retrieval, NTK, 140 keys: CREAM is printed as 29.9; .*31.0.",
                        said)  # fmt: skip


def test_the_releases_differ_at_64_and_not_at_8():
    """Protocols 1.3: at scale 64 mean 9 tells far fewer distances; at 8 the samplers are one."""
    table = reproduction.releases(examples=60).set_index("sampler")
    ours, nine = table.iloc[0], table.loc["mean 9 (wutong4012)"]
    assert ours["s = 8"] == nine["s = 8"]
    assert float(ours["s = 64"].rstrip(" %")) > 1.5 * float(nine["s = 64"].rstrip(" %"))


def test_the_command_fills_checks_and_says_what_is_wrong(tmp_path, capsys):
    """From a folder with a grid: numbers go in, are found there, and a changed one is shown."""
    table = pa.Table.from_pandas(campaign(("scale64",), samples=4), preserve_index=False)
    schema = {"cream": "cream-grid-1", **(table.schema.metadata or {})}
    parquet.write_table(table.replace_schema_metadata(schema), tmp_path / "grid.parquet")
    file = tmp_path / "R.md"
    file.write_text((ROOT / "REPRODUCTION.md").read_text(encoding="utf-8"), encoding="utf-8")
    given = [str(tmp_path)]
    assert reproduction.main([*given, "--out", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert "of 24 models" in text and "## How to read it" in text and "CREAM, rise: 0.0" in text
    assert reproduction.main([*given, "--check", str(file)]) == 0
    file.write_text(text.replace("n = 6: 2 seeds", "n = 7: 2 seeds", 1), encoding="utf-8")
    capsys.readouterr()
    assert reproduction.main([*given, "--check", str(file)]) == 1
    assert "n = 7: 2 seeds" in capsys.readouterr().out
    file.write_text("no marks", encoding="utf-8")
    assert reproduction.main([*given, "--out", str(file)]) == 1
    assert "<!-- rows: source -->" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "no marks" and len(list(tmp_path.iterdir())) == 2


def test_rows_of_a_grid_are_passed_over_in_a_folder_and_refused_by_name(tmp_path):
    """`results.read` reads rows of answers alone."""
    table = pa.table({"a": [1]}).replace_schema_metadata({"cream": "cream-grid-1"})
    parquet.write_table(table, tmp_path / "grid.parquet")
    assert results.read(tmp_path).empty
    with pytest.raises(ValueError, match="cream-grid-1"):
        results.read(tmp_path / "grid.parquet")
    parquet.write_table(table.replace_schema_metadata({"cream": "cream-rows-9"}),
                        tmp_path / "later.parquet")  # fmt: skip
    with pytest.raises(ValueError, match="cream-rows-9"):
        results.read(tmp_path)
