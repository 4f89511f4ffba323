"""What a run's name says beside its columns, against the campaign that gives the names."""

from __future__ import annotations

import pytest

from cream.results.run_names import campaign_model, options_of
from cream.study.campaign_models import jobs

MODELS = {
    "cream:yarn:8:2": {},
    "clex:clex+frozen:8:2": {"frozen": "True"},
    "clex:clex+log_scale+frozen:8:2": {"log_scale": "True", "frozen": "True"},
    "clex:clex:8:2:clex_grad_norm=1.0": {"clex_grad_norm": "1.0"},
    "cream:yarn:8:2:lora_rank=16:learning_rate=1e-05": {
        "lora_rank": "16", "learning_rate": "1e-05"
    },
    "cream:yarn:8:7:sampler_options.middle=uniform:micro_batch=4": {
        "sampler_options.middle": "uniform", "micro_batch": "4"
    },
    "pose-v1:yarn-original:8:12:float8=tensorwise": {"float8": "tensorwise"},
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_options_are_those_that_the_campaign_was_given(model):
    (job,) = jobs(model)
    run = f"runs/smollm2-a+b/{job.name}"
    assert options_of(run) == MODELS[model]
    named = campaign_model(job.method, job.fields["scaling"], job.scale, run)
    assert jobs(named.replace("SEED", str(job.seed))) == [job]


@pytest.mark.parametrize("run", ["original", "scaled:yarn:8", "runs/x", "x/Llama-2-7b", ""])
def test_a_name_that_no_campaign_gave_says_nothing(run):
    assert options_of(run) == {}


def test_untrained_models_are_named_as_campaigns_name_them():
    assert campaign_model("original", "none", 1, "original") == "original"
    assert campaign_model("scaled", "yarn", 8, "scaled:yarn:8") == "scaled:yarn:8"
