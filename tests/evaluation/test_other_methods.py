"""Runs of CLEX, endprompt, cope and drope are evaluated by name, as any other run is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import training_runs

from cream import models, results
from cream.evaluation import __main__ as evaluation
from cream.plots.method_names import by_name
from cream.rope import clex

ROOT = Path(__file__).resolve().parents[2]
RUNS = [
    {"method": "clex", "scaling": "clex", "micro_batch": 2, "precision": "master"},
    {"method": "clex", "scaling": "clex", "scaling_options": {"frozen": True}},
    {"method": "endprompt", "scaling": "linear"},
    {"method": "cream", "scaling": "cope"},
    {"method": "plain", "scaling": "drope"},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, training_place) -> Path:
    root = tmp_path_factory.mktemp("methods")
    for number, changes in enumerate(RUNS):
        training_runs.train(training_place, root / f"run{number}", **changes)
    return root


def test_every_run_answers_within_and_beyond_the_window(place, training_place, monkeypatch):
    monkeypatch.setenv("CREAM_COMMIT", "tested")
    names = ",".join(str(place / f"run{number}") for number in range(len(RUNS)))
    told = {"preset": "tiny", "base": str(training_place / "base"), "samples": 2,
            "models": f"{names},scaled:clex:8", "lengths": "1,4", "rows": str(place / "r.jsonl")}
    evaluation.run("03_longchat_lines", told, ROOT)
    rows = results.read(place / "r.jsonl")
    assert len(rows) == 4 * (len(RUNS) + 1)
    assert set(rows["method"]) == {"clex", "endprompt", "cream", "plain", "scaled"}
    assert set(rows["scaling"]) == {"clex", "linear", "cope", "drope"}


def test_the_ablation_is_ntk_by_twice_t_less_one(place):
    """CLEX with W_down at 0 after training: NTK's frequencies at every t, to float32."""
    model = models.load(place / "run1" / "model")
    layer = clex.layer_of(model)
    assert not clex.trained_matrices(model)
    for t in (1, 3, 8):
        found = layer.inv_freq_at((t,))[0].numpy()
        assert found == pytest.approx(layer.kind.ntk(layer.start, layer.dim, t), rel=1e-12)


def test_the_growing_rule_is_a_model_of_its_own(place, training_place, monkeypatch):
    """Its rows say so in run, method and settings; and only CLEX has it."""
    monkeypatch.setenv("CREAM_COMMIT", "tested")
    told = {"preset": "tiny", "base": str(training_place / "base"), "samples": 1,
            "models": f"{place}/run0,growing:{place}/run0", "lengths": "1.2",
            "rows": str(place / "grown.jsonl")}  # fmt: skip
    evaluation.run("03_longchat_lines", told, ROOT)
    rows = results.read(place / "grown.jsonl")
    assert list(rows["method"]) == ["clex", "clex growing"] and rows["key"].nunique() == 2
    assert [json.loads(one).get("clex_t") for one in rows["settings"]] == [None, "growing"]
    assert rows["run"][1] == f"growing:{rows['run'][0]}"
    assert list(by_name(rows)["method"]) == ["clex", "CLEX, growing cache"]
    with pytest.raises(ValueError, match="only a CLEX checkpoint"):
        evaluation.run("03_longchat_lines", told | {"models": f"growing:{place}/run2"}, ROOT)
