"""The list of claims: the issue's, each with the paper's number and a command that exists."""

from pathlib import Path

import pandas as pd
import pytest

from cream.reproduction.paper_claims import ENTRIES, Evidence, counted, ends, signed
from cream.reproduction.verdicts import of_lines
from cream.study.analysis import contrasts
from cream.study.design import PLANS

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "data" / "paper"
# As the issue lists them.
LISTED = (
    "leads PoSE on LongChat-Lines", "middle of key-value retrieval", "linear", "NTK", "YaRN",
    "A Gaussian middle leads", "Both modes", "Sigma 3", "0 beyond N", "RandPos is 0",
    "flat to the target", "flat at scale 64", "needle", "Short tasks", "tenth of the steps",
    "costs the same",
)  # fmt: skip


def test_every_claim_of_the_issue_is_there():
    """In its order, none left out."""
    for name, entry in zip(LISTED, ENTRIES, strict=True):
        assert name in entry.title


def test_every_entry_has_the_papers_words_and_claims_that_exist():
    """A name that no claim has would show as "not run" for ever."""
    known = {claim.name: claim for claim in contrasts.CLAIMS}
    for entry in ENTRIES:
        assert len(entry.paper(PAPER)) > 10
        assert set(entry.claims) | set(entry.beside) <= set(known)
        assert entry.claims or entry.measure
        if entry.claims:
            named = (*entry.claims, *entry.beside)
            plans = dict.fromkeys(known[name].plan for name in named)
            assert set(plans) <= set(PLANS)
            assert entry.command == " && ".join(f"python -m cream.study {plan}" for plan in plans)


def test_the_papers_middle_is_given_on_the_endpoint_here_too():
    """Against the file: middle place less the mean of both ends, 140 keys, CREAM less PoSE."""
    table = pd.read_csv(PAPER / "lost_in_the_middle.csv", comment="#")
    said = ENTRIES[1].paper(PAPER)
    for scaling, name in (("linear", "linear"), ("ntk", "NTK"), ("yarn", "YaRN")):
        part = table[(table["scaling"] == scaling) & (table["num_keys"] == 140)]
        wide = part.pivot(index="gold_index", columns="method", values="accuracy").sort_index()
        gap = (wide["cream"] - wide["pose"]).to_numpy()
        assert f"{gap[2] - (gap[0] + gap[4]) / 2:+.1f} {name}" in said
    assert "+19.9 and +14.9" in said


def test_the_cost_is_read_from_whole_models_and_compared_over_targets():
    """Milliseconds at each target; not of shallow models, which stand for what does not fit."""

    def row(method: str, target: int, score: float, layers: int = 32) -> dict:
        settings = f'{{"layers": {layers}, "of_layers": 32}}'
        return {
            "task": "speed_efficiency", "method": method, "token_length": target, "score": score,
            "settings": settings, "preset": "llama2-7b", "card": "H200",
        }  # fmt: skip

    rows = [row("cream", 8192, 1000.0), row("cream", 262144, 1010.0), row("full", 8192, 2000.0),
            row("full", 16384, 4000.0), row("cream", 4096, 10.0, layers=2)]  # fmt: skip
    for slower, verdict in ((1010.0, "holds"), (1200.0, "does not hold")):
        rows[1]["score"] = slower
        found = Evidence(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(rows))
        (line,) = ENTRIES[-1].measure(found)
        assert f"1,000 to {slower:,.0f} ms" in line.value and line.verdict == verdict
        assert "full length 2,000 ms at 8,192 and 4,000 at 16,384" in line.value
    rows += [row("plain", 8192, 1100.0)]
    (line,) = ENTRIES[-1].measure(Evidence(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(rows)))
    assert line.value.endswith("plain fine-tuning, which is the same work, up to 10 % from it")
    assert line.verdict == "not told apart"
    assert of_lines([line, line._replace(verdict="holds")]) == "holds"


@pytest.mark.parametrize(
    ("value", "text"), [(-0.04, "0.0"), (0.0, "0.0"), (-0.06, "-0.1"), (2.0, "+2.0")]
)
def test_nothing_has_no_sign(value, text):
    """Neither alone nor in an interval."""
    assert signed(value) == text
    assert ends(value, 9.0) == f"[{text}, +9.0]"


def test_numbers_are_said_in_full():
    """Per cents, no interval, and bases of unequal seeds."""
    assert ends(-4.0, 1234.0, " %") == "[-4.0, +1,234] %" and signed(959.1, " %") == "+959 %"
    assert ends(float("nan"), float("nan")) == "-"
    assert counted(5, 1, 2, 3) == "5 = 1 to 2 x 3" and counted(24, 8, 8, 3) == "24 = 8 x 3"
