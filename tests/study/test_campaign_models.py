"""A campaign's models: their names, the changes behind them, and who takes which."""

from __future__ import annotations

import pytest
from filelock import FileLock

from cream import presets
from cream.study import campaign
from cream.study.campaign_models import Job, claimed, finish, jobs


def test_models_are_named_as_evaluations_name_them():
    found = jobs("original, scaled:yarn:8,cream:yarn:8:1")
    assert found == [Job("original"), Job("scaled", "yarn", 8), Job("cream", "yarn", 8, 1)]
    subjects = [each.evaluation_name("runs/x") for each in found]
    assert subjects == ["original", "scaled:yarn:8", "runs/x/cream-yarn-8-seed1"]
    assert [each.trained for each in found] == [False, False, True]


def test_fields_of_one_run_alone_stand_behind_it():
    plain, eight = jobs("cream:yarn:8:1,cream:yarn:8:1:float8=tensorwise:micro_batch=4")
    assert plain.changes == () and dict(eight.changes) == {"float8": "tensorwise", "micro_batch": 4}
    assert eight.name == "cream-yarn-8-seed1-float8-tensorwise-micro_batch-4"
    assert eight.evaluation_name("runs/x") == f"runs/x/{eight.name}"
    (uniform,) = jobs("cream:yarn:8:1:sampler_options.middle=uniform:sampler_options.ends=8")
    fields = uniform.run_fields({"micro_batch": 4, "sampler_options": {"content": "free"}})
    assert fields["sampler_options"] == {"content": "free", "middle": "uniform", "ends": 8}
    assert fields["micro_batch"] == 4 and fields["seed"] == 1
    assert uniform.name.endswith("-sampler_options.middle-uniform-sampler_options.ends-8")
    made = presets.get("miniature", **fields).train
    assert made.sampler_options == fields["sampler_options"]
    with pytest.raises(ValueError, match="a run has no float9 .did you mean float8"):
        campaign.main(["x", "--models", "cream:yarn:8:1:float9=tensorwise"])


def test_options_of_a_scaling_stand_after_a_plus():
    """CLEX and its ablation are two models, trained as the presets have their other fields."""
    whole, frozen = jobs("clex:clex:8:0,clex:clex+frozen:8:0")
    assert whole.name != frozen.name
    assert "scaling_options" not in whole.fields
    made = [presets.get("miniature", **each.fields).train for each in (whole, frozen)]
    assert [one.scaling for one in made] == ["clex", "clex"]
    assert made[1].scaling_options == {"frozen": True}
    (both,) = jobs("clex:clex+frozen:8:0:scaling_options.log_scale=true")
    assert both.run_fields({})["scaling_options"] == {"frozen": True, "log_scale": True}


def test_two_models_never_share_a_name():
    listed = "original,scaled:yarn:8,scaled:ntk:8,pose:yarn:8:0,pose:yarn:8:1,pose:yarn:16:0"
    names = [each.name for each in jobs(listed)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "models, said",
    [("", "no model"), ("cream:yarn:8", "cream:yarn:8"), ("scaled:yarn:x", "scaled:yarn:x"),
     ("original:yarn:8:0", "original:yarn:8:0"), ("original,original", "twice"),
     ("cream:yarn:8:0:float8", "float8 is no|float8' is no"),
     ("scaled:yarn:8:float8=tensorwise", "is no model")],
)  # fmt: skip
def test_what_is_no_list_of_models_is_refused(models, said):
    with pytest.raises(ValueError, match=said):
        jobs(models)


def test_nobody_takes_what_another_has_or_has_finished(tmp_path):
    wanted = jobs("original,scaled:yarn:8,cream:yarn:8:0")
    (tmp_path / f"{wanted[0].name}.done").touch()
    with FileLock(tmp_path / f"{wanted[1].name}.lock"):
        taken = claimed(wanted, tmp_path)
        assert next(taken) == wanted[2]
        assert list(claimed(wanted, tmp_path)) == []  # while the first holds the third
        assert list(taken) == []
    assert list(claimed(wanted, tmp_path)) == wanted[1:]


def test_who_was_asked_less_is_taken_again(tmp_path):
    """A campaign that is started again with one more task, or one more factor."""
    (job,) = jobs("original")
    finish(job, tmp_path, ["needle", "perplexity"])
    assert list(claimed([job], tmp_path, ["needle"])) == []
    assert list(claimed([job], tmp_path, ["needle", "needle:x1.2"])) == [job]
    finish(job, tmp_path, ["needle:x1.2"])
    assert list(claimed([job], tmp_path, ["needle", "needle:x1.2", "perplexity"])) == []
