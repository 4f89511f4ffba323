"""Losses of runs that differ in float8 alone: which are paired, and how far they are apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cream.performance import __main__ as performance
from cream.performance import loss_pairs

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"method": "cream", "scaling": "yarn", "scale": 8, "micro_batch": 4}


def _run(folder: Path, name: str, losses: list[float], peak: float = 20.0, **settings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**SETTINGS, **settings}))
    rows = [{"step": 5 * k, "loss": loss, "peak_gib": peak} for k, loss in enumerate(losses, 1)]
    text = "\n".join(map(json.dumps, [*rows, {"step": 5, "probe_kv": 1.0}]))
    (folder / f"{name}.jsonl").write_text(text + "\n")


@pytest.fixture
def runs(tmp_path) -> Path:
    """Seed 1 in float8 once and without twice, another seed and method without a partner."""
    _run(tmp_path / "a", "plain1", [2.0, 1.5, 1.0], 25.0, seed=1, micro_batch=2)
    _run(tmp_path / "b", "again1", [2.1, 1.5, 1.0], 25.0, seed=1, float8="none", revision=None)
    _run(tmp_path / "b", "eight1", [2.0, 1.6, 1.3], seed=1, float8="tensorwise",
         float8_layers="all")  # fmt: skip
    _run(tmp_path / "b", "eight2", [1.0, 1.0, 1.0], seed=2, float8="tensorwise")
    _run(tmp_path / "b", "pose1", [1.0, 1.0, 1.0], seed=1, method="pose")
    (tmp_path / "b" / "unread.json").write_text("{}")
    return tmp_path


def test_runs_of_equal_settings_are_paired_whatever_their_micro_batch(runs):
    """A field that an older run lacks has its default."""
    table = loss_pairs.pairs(runs)
    assert table["float8"].tolist() == ["tensorwise", "tensorwise", "none"]
    eight = table.iloc[0]
    assert (eight["losses"], eight["mean"]) == (3, pytest.approx(0.4 / 3))
    assert eight["last third"] == eight["most"] == pytest.approx(0.3)
    assert (eight["GiB"], eight["GiB without"]) == (20.0, 25.0)
    assert (table.iloc[2]["most"], table.iloc[2]["at"]) == (pytest.approx(-0.1), 5)


def test_runs_of_several_folders_are_paired(tmp_path):
    _run(tmp_path / "one" / "a", "plain1", [2.0, 1.5, 1.0], seed=1)
    _run(tmp_path / "two" / "a", "eight1", [2.5, 1.5, 1.0], seed=1, float8="tensorwise")
    assert loss_pairs.pairs(tmp_path / "one").empty
    table = loss_pairs.pairs(tmp_path / "one", tmp_path / "two")
    assert table["most"].tolist() == [pytest.approx(0.5)]


def test_the_command_says_what_they_come_to(runs, capsys, tmp_path_factory):
    performance.main(["loss-pairs", str(runs)])
    said = capsys.readouterr().out
    assert "Runs in float8 (tensorwise): +0.3000 to +0.3000 nats a token apart" in said
    assert (
        "Two runs of equal settings:" in said
        and "(1 pair); furthest -0.1000, in the loss logged at step 5." in said
    )
    performance.main(["loss-pairs", str(tmp_path_factory.mktemp("none"))])
    assert capsys.readouterr().out == "No run in float8 has one beside it without.\n"


def test_the_committed_runs_are_all_there():
    """Two seeds in float8, one of them beside two runs without."""
    table = loss_pairs.pairs(ROOT / "data" / "smollm2" / "metrics")
    assert table.groupby("float8")["seed"].apply(sorted).to_dict() == {
        "none": [1], "tensorwise": [1, 1, 6],
    }  # fmt: skip
    assert (table["losses"] == 30).all()


def _committed(name: str) -> list[float]:
    lines = (ROOT / "data" / "smollm2" / "metrics" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("seed", [1, 6])
def test_float8_begins_below_and_ends_above(seed):
    """As the files have it; two equal runs are far closer than that."""
    table = loss_pairs.pairs(ROOT / "data" / "smollm2" / "metrics")
    eight = _committed(f"float8/cream-yarn-8-seed{seed}-float8-tensorwise-float8_layers-all")
    plain = _committed(f"primary/cream-yarn-8-seed{seed}")
    apart = [one - other for one, other in zip(eight, plain, strict=True)]
    line = table[(table["float8"] != "none") & (table["seed"] == seed)].iloc[0]
    assert line["mean"] == pytest.approx(sum(apart) / 30)
    assert line["last third"] == pytest.approx(sum(apart[-10:]) / 10)
    assert (line["most"], line["at"]) == (pytest.approx(apart[0]), 5) and apart[0] < 0
    equal = table[table["float8"] == "none"]["most"].abs().max()
    assert 10 * equal < line["last third"]
