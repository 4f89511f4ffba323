"""Tables of REPRODUCTION.md: one row a claim, numbers those of the contrasts, nothing left out."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_campaign import campaign
from made_contrasts import contrast, evidence

from cream.reproduction import tables as reproduction_tables
from cream.reproduction.paper_claims import ENTRIES, Evidence
from cream.study.analysis import contrasts, endpoints

PAPER = Path(__file__).resolve().parents[2] / "data" / "paper"


@pytest.fixture(scope="module")
def made() -> Evidence:
    """What a small campaign says."""
    runs = endpoints.units(campaign(("primary", "ablations"), samples=4))
    return Evidence(runs, contrasts.contrasts(runs), pd.DataFrame())


def measured(found: Evidence) -> pd.DataFrame:
    table = reproduction_tables.measured(found, PAPER).replace("\u00a0", " ", regex=True)
    return table.set_index(table["claim"].str.extract(r"\*\*(.*?)\*\*", expand=False))


def test_every_claim_has_one_row_in_both_tables(made):
    """With and without runs; what was not run says so."""
    titles = [entry.title for entry in ENTRIES]
    for found in (made, evidence()):
        table = measured(found)
        assert list(table.index) == titles
        assert list(reproduction_tables.verdicts(found)["claim"]) == titles
    assert all(table["the paper says"].str.len() > 10) and all(table["command"].str.len() > 10)
    empty = reproduction_tables.verdicts(evidence()).set_index("claim")
    assert all(set(row) == {"", "not run"} for row in empty.to_numpy())


def test_the_table_of_verdicts_has_a_column_a_setting():
    """A claim of one scaling has its columns alone; one that nothing can change has the last."""
    found = evidence(
        contrast("lines average", "inconclusive"),
        contrast("lines average", "does not hold", scaling="linear", bound="near 0"),
        contrast("key-value average", "holds", scaling="ntk", condition="mixed"),
        contrast("original is 0 beyond N", "holds", condition="none", scaling="none", b=None),
    )  # fmt: skip
    table = reproduction_tables.verdicts(found).set_index("claim")
    assert list(table.columns) == [
        "text, linear", "text, NTK", "text, YaRN", "with retrieval, linear", "with retrieval, NTK",
        "with retrieval, YaRN", "any setting",
    ]  # fmt: skip
    lines = table.loc["CREAM leads PoSE on LongChat-Lines"]
    assert list(lines) == ["both near 0", "", "inconclusive", "", "", "", ""]
    ntk = table.loc["CREAM leads PoSE on key-value retrieval by NTK"]
    assert list(ntk) == ["", "", "", "", "holds", "", ""]
    assert list(table.loc["The original model is 0 beyond N"]) == [""] * 6 + ["holds"]


def test_a_row_has_every_scaling_on_text(made):
    """Difference, both intervals and counts, each scaling on a line of its own."""
    row = measured(made).loc["CREAM leads PoSE on LongChat-Lines"]
    same = made.contrasts[made.contrasts["claim"] == "lines average"]
    same = same[same["condition"] == "text"]
    assert "CREAM - PoSE, LongChat-Lines at 4 to 7.8 N" in row["claim"]
    assert "+15.9 points over PoSE (69.9 against 54.0" in row["the paper says"]
    lines = [cell.split("<br>") for cell in row.iloc[2:5]]
    assert [len(line) for line in lines] == [3, 3, 3]
    for place, (name, one) in enumerate(zip(("linear", "NTK", "YaRN"), same.itertuples(),
                                            strict=True)):  # fmt: skip
        assert lines[0][place] == f"{name}: {one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"
        assert lines[1][place] == f"[{one.seeds_low:+.1f}, {one.seeds_high:+.1f}]"
        assert lines[2][place] == "6 = 2 x 3"


def test_an_interval_of_nothing_is_not_shown_as_one():
    """Both at 0: the words, not [0.0, 0.0]."""
    found = evidence(
        contrast("lines average", "does not hold", scaling="linear", bound="near 0", value=0.0,
                 low=0.0, high=0.0, level_a=0.0, level_b=0.0),
        contrast("lines average", "inconclusive", scaling="ntk"),
    )  # fmt: skip
    row = measured(found).loc["CREAM leads PoSE on LongChat-Lines"]
    assert row.iloc[2] == "linear: both near 0<br>NTK: +1.0 [+0.5, +1.5]"
    assert row.iloc[3] == "-<br>[+0.9, +1.1]"


def test_comparisons_of_one_scaling_say_what_is_taken_off():
    """The scaling then stands once, below the title."""
    found = evidence(*(contrast(f"sigma 3 over {k}", "inconclusive", b=f"sigma {k}")
                       for k in (1, 2, 4)))  # fmt: skip
    row = measured(found).loc["Sigma 3 is best"]
    assert row["claim"].endswith("CREAM less each, LongChat-Lines at 4 to 7.8 N, YaRN")
    assert row.iloc[2].startswith("less sigma 1: +1.0 [+0.5, +1.5]<br>less sigma 2: ")


def test_a_scaling_with_both_near_0_has_one_line_beside_several():
    """Not one a comparison, each of 0."""
    rows = [contrast(f"sigma 3 over {k}", verdict, b=f"sigma {k}", scaling=scaling, bound=bound)
            for scaling, verdict, bound in (("linear", "does not hold", "near 0"),
                                            ("yarn", "inconclusive", ""))
            for k in (1, 2, 4)]  # fmt: skip
    row = measured(evidence(*rows)).loc["Sigma 3 is best"]
    assert row.iloc[2].split("<br>")[:2] == ["linear: both near 0",
                                             "less sigma 1: +1.0 [+0.5, +1.5]"]  # fmt: skip
    assert len(row.iloc[2].split("<br>")) == len(row.iloc[4].split("<br>")) == 4
    assert row["claim"].endswith(", YaRN")


@pytest.mark.slow
def test_the_second_look_lists_what_changed(made):
    """Against verdicts of both, taken one by one; nothing where no base was added."""
    assert reproduction_tables.second_look(evidence()).empty
    first = made.runs
    assert reproduction_tables.second_look(made._replace(first=first)).empty
    more = first[first["base"] == first["base"].iloc[0]].assign(base="another")
    more["lines"] -= 30.0 * (more["variant"] == "cream")
    both = pd.concat([first, more], ignore_index=True)
    found = contrasts.contrasts(both)
    table = reproduction_tables.second_look(Evidence(both, found, pd.DataFrame(), {}, first))
    keys = ["claim", "condition", "scaling"]
    then = contrasts.contrasts(first).set_index(keys)["verdict"]
    now = found[(found["bound"] == "") & (found["n"] > 0)].set_index(keys)["verdict"]
    changed = now[now != then.reindex(now.index)]
    assert len(changed) == len(table) > 0
    for (name, *_), (_, row) in zip(changed.index, table.iterrows(), strict=True):
        assert row["claim"] == name
    row = table.iloc[0]
    assert row["at the first look"].startswith(then[changed.index[0]])
    assert row["now"].startswith(changed.iloc[0])
    assert row["n = seeds x bases"] == "6 = 2 x 3" and row.iloc[5] == "8 = 2 x 4"


def test_perplexities_are_per_cent_and_themselves():
    """A loss is 100 times its nats: 300 to 250 are 20.1 to 12.2, which is -39.3 %."""
    found = evidence(contrast("flat perplexity", "holds", endpoint="rise", b=None, kind="most",
                              value=-50.0, low=-60.0, high=-40.0, level_a=250.0,
                              level_b=300.0))  # fmt: skip
    row = measured(found).loc["Perplexity is flat to the target"]
    assert row.iloc[2] == "YaRN: -39.3 % [-45.1, -33.0] %"
    (table,) = reproduction_tables.comparisons(
        found.contrasts.assign(plan="primary"), PAPER
    ).values()
    assert table["measured"][0].replace("\u00a0", " ") == "-39.3 % (20.1 to 12.2)"


def test_the_long_tables_hold_every_contrast_once(made):
    """None left out; in brackets what compares unlike data; a lead inside the margin says so."""
    tables = reproduction_tables.comparisons(made.contrasts, PAPER)
    assert sum(map(len, tables.values())) == (made.contrasts["n"] > 0).sum()
    assert "Holm's p" in tables["Primary claims, corrected for their number"]
    assert "Holm's p" not in tables["Parts of CREAM"]
    rows = [
        contrast("lines average", "holds", family="sensitivity", condition="mixed"),
        contrast("lines average", "does not hold", low=-1.0, high=2.0, bound="near 0"),
        contrast("lines average", "does not hold", low=-1.0, high=2.0, seeds_low=-2.0),
    ]  # fmt: skip
    found = evidence(*(row | {"plan": "primary"} for row in rows))
    (table,) = reproduction_tables.comparisons(found.contrasts, PAPER).values()
    assert list(table["verdict"]) == ["(holds: the training data differ)", "both near 0",
                                      "does not hold (within 5 points of 0)"]  # fmt: skip


def test_rates_stand_beside_each_other():
    """Means over the seeds of a rate, and CREAM less PoSE of the same seed."""
    runs = pd.DataFrame(
        {"plan": "sensitivity", "condition": "text", "variant": variant, "learning_rate": rate,
         "base": "a", "seed": seed, "lines": level + seed + 10 * (rate > 2e-4)}
        for variant, level in (("cream", 40.0), ("pose", 42.0), ("plain", 30.0))
        for rate in (1e-4, 1e-3) for seed in (0, 1, 2)
    )  # fmt: skip
    table = reproduction_tables.sensitivity(runs).set_index("method")
    assert list(table.columns) == ["data", "rate 0.0001", "rate 0.001"]
    assert table.loc["CREAM", "rate 0.001"].startswith("51.0 [+48.5, +53.5], n = 3")
    assert table.loc["CREAM - PoSE", "rate 0.0001"].startswith("-2.0 [-2.0, -2.0]")
    assert reproduction_tables.sensitivity(pd.DataFrame()).empty


def test_leakage_is_a_row_a_kind_of_data():
    """Shared 13-grams of all, and words in both."""
    known = {
        "overlap_of_text": {"shared": 2, "of": 3000},
        "overlap_of_questions": {"shared": 0, "of": 40},
        "words": {"training": 5, "evaluation": 7, "shared": 1},
    }
    table = reproduction_tables.leakage({"mixed": known})
    assert list(table.iloc[0]) == ["with retrieval", "2 of 3,000", "0 of 40", "1", "5", "7"]
    assert reproduction_tables.leakage({}).empty


def test_variants_of_the_layout_have_their_names():
    """As everywhere, and only where there is something to answer."""
    each = {"queries_a_window": 2.0, "far_queries_a_window": 0.5}
    counts = {"text": {"flagged": [], "variants": {"pose": each}},
              "mixed": {"flagged": ["pose, scale 64"],
                        "variants": {"pose, scale 64": each, "sigma 1": each}}}  # fmt: skip
    table = reproduction_tables.queries(counts)
    assert list(table["variant"]) == ["PoSE, scale 64", "sigma 1"]
    assert list(table["flagged"]) == ["yes", ""]


def test_the_slip_of_the_published_table_is_listed():
    """One average that does not follow from its row."""
    said = reproduction_tables.slips(PAPER)
    assert re.fullmatch(r"- Key-value retrieval, NTK, 140 keys: CREAM is printed as 29.9; .*31.0.",
                        said)  # fmt: skip


def test_the_releases_differ_at_64_and_not_at_8():
    """Protocols 1.3: at scale 64 mean 9 tells far fewer distances; at 8 the samplers are one."""
    table = reproduction_tables.releases(examples=60).set_index("sampler")
    ours, nine = table.iloc[0], table.loc["mean 9 (wutong4012)"]
    assert ours["s = 8"] == nine["s = 8"]
    assert float(ours["s = 64"].rstrip(" %")) > 1.5 * float(nine["s = 64"].rstrip(" %"))


def test_a_bar_in_a_cell_does_not_split_it():
    """And every row has as many cells as the head."""
    text = reproduction_tables.markdown(pd.DataFrame({"a": ["x|y"], "b": [np.nan]}))
    assert text.splitlines() == ["| a | b |", "| --- | --- |", "| x\\|y | nan |"]
