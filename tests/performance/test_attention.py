"""Attention alone: what is counted, what a kernel is given, what is said of one that cannot run."""

from __future__ import annotations

import json

import pytest
import torch

from cream import results
from cream.performance import attention

CPU = ["--heads", "4/2x16", "--lengths", "64,128", "--tokens", "128", "--repeats", "2"]


def test_heads_are_read_and_written_alike():
    for text, wanted in (("9/3x64", (9, 3, 64)), ("32x128", (32, 32, 128))):
        assert attention.read_heads(text) == wanted and str(attention.Heads(*wanted)) == text


@pytest.mark.parametrize("text", ["9", "9/2x64", "0x64", "9/0x64", "x64"])
def test_heads_that_cannot_be_are_refused(text):
    with pytest.raises(ValueError, match=text):
        attention.read_heads(text)


def test_half_of_the_square_is_counted():
    """Two products of matrices, each over half of the pairs; a backward pass has five."""
    heads, windows, tokens = attention.Heads(6, 2, 32), 3, 100
    pairs = tokens * tokens / 2
    product = 2 * windows * heads.queries * pairs * heads.size
    assert attention.flops(heads, windows, tokens, "forward") == 2 * product
    assert attention.flops(heads, windows, tokens, "backward") == 5 * product


def test_kernels_are_measured_on_the_same_inputs(tmp_path, capsys):
    """Rows of each pass; one that is not there is a line, not an end; outputs agree."""
    file = tmp_path / "rows.jsonl"
    attention.main([*CPU, "--kernels", "sdpa,causal-fa2,causal-fa4", "--rows", str(file)])
    said = capsys.readouterr().out
    assert said.count("forward") == 4
    assert said.count("causal-fa4: ModuleNotFoundError") == 2
    rows = results.read(file)
    how = [json.loads(one) for one in rows["settings"]]
    assert {(one["kernel"], one["pass"]) for one in how} == {
        (kernel, name) for kernel in ("sdpa", "causal-fa2") for name in ("forward", "backward")
    }
    assert len(rows) == 8 and rows["key"].is_unique
    assert all(one["output_apart"] < 0.01 and one["tflops"] > 0 for one in how)
    assert list(rows["num_tokens"]) == [128] * 8 and (rows["score"] > 0).all()


def test_what_a_model_computes():
    """The kernel's function on these inputs is attention as its definition says it."""
    heads = attention.Heads(4, 2, 16)
    query, key, value, _ = attention._made(heads, 2, 32)
    out = attention._function("sdpa", heads)(query, key, value)
    key, value = (each.repeat_interleave(2, dim=1).float() for each in (key, value))
    scores = (query.float() @ key.transpose(2, 3)) / 4
    scores = scores.masked_fill(~torch.ones(32, 32, dtype=torch.bool).tril(), -torch.inf)
    exact = (scores.softmax(-1) @ value).transpose(1, 2)
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--kernels", "fa9"], "no kernel 'fa9'"), (["--lengths", "0"], "at least 1"),
     (["--heads", "9/2x64"], "heads")],
)  # fmt: skip
def test_misuse_is_said_before_anything_is_measured(more, said, capsys):
    with pytest.raises(SystemExit):
        attention.main([*CPU, *more])
    assert said in capsys.readouterr().err
