"""Methods that rows have no column for are apart, and have names and looks of their own."""

from __future__ import annotations

import json

import pandas as pd

from cream.plots.method_names import by_name
from cream.plots.style import in_order, style

NAMES = {
    ("original", "none", "original"): "original",
    ("scaled", "cope", "scaled:cope:8"): "scaled",
    ("cream", "yarn", "runs/x/cream-yarn-8-seed2"): "cream",
    ("cream", "cope", "runs/x/cream-cope-8-seed2"): "CoPE, CREAM's positions",
    ("plain", "drope", "runs/x/plain-drope-8-seed2"): "DroPE, plain fine-tuning",
    ("clex", "clex", "runs/x/clex-clex-8-seed2"): "clex",
    ("clex", "clex", "runs/x/clex-clex+frozen-8-seed2"): "RandPos on frozen NTK",
    ("clex", "clex", "runs/x/clex-clex-8-seed2-clex_grad_norm-1.0"):
        "CLEX, matrices clipped apart at 1.0",
    ("cream", "yarn", "runs/x/cream-yarn-8-seed2-lora_rank-16-learning_rate-0.001"):
        "CREAM, LoRA rank 16, rate 0.001",
}  # fmt: skip


def _rows() -> pd.DataFrame:
    return pd.DataFrame(list(NAMES), columns=["method", "scaling", "run"])


def test_each_method_has_its_name():
    assert list(by_name(_rows())["method"]) == list(NAMES.values())


def test_names_are_read_once_more_as_they_are():
    once = by_name(_rows().iloc[:4].drop(columns="run"))
    assert list(once["method"])[:3] == ["original", "scaled", "cream"]


def test_the_cache_that_clex_was_asked_with_makes_another_method():
    settings = json.dumps({"clex_t": "growing"})
    rows = pd.DataFrame([
        {"method": "clex growing", "scaling": "clex", "run": "growing:runs/x/clex-clex-8-seed2",
         "settings": settings},
        {"method": "clex growing", "scaling": "clex",
         "run": "growing:runs/x/clex-clex+frozen-8-seed2", "settings": settings},
    ])  # fmt: skip
    names = list(by_name(rows)["method"])
    assert names == ["CLEX, growing cache", "RandPos on frozen NTK, growing cache"]


def test_looks_differ_and_the_named_ones_have_an_order():
    looks = [style(name) for name in NAMES.values()]
    assert len({(look.color, look.marker) for look in looks}) == len(looks)
    assert in_order(["DroPE, plain fine-tuning", "cream"]) == ["cream", "DroPE, plain fine-tuning"]
