"""A model of an evaluation by itself; names that lead to one are in test_models."""

from __future__ import annotations

import torch

from cream.evaluation.model_spec import device_name


def test_cards_have_names():
    assert device_name(torch.device("cpu")) == "cpu"
