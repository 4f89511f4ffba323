"""The adapter that ships fits its base, and on it is the model that its rows were measured of."""

import json
import os
import socket
import sys
from pathlib import Path

import browser
import numpy as np
import pandas as pd
import pexpect
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from cream.chat.conversation import Chat
from cream.chat.models import open_model, open_original
from cream.chat.streaming import Answers
from cream.study import real_model

ROOT = Path(__file__).resolve().parents[2]
ADAPTER = ROOT / real_model.SHIPPED
BASE = ROOT / "runs" / "bases" / "smollm2-135m"
RANK = 19
QUESTION = "What is the password of the old lighthouse?"
with_base = pytest.mark.skipif(
    not (BASE / "model.safetensors").is_file(),
    reason="the base is not here: `make real` fetches it into runs/bases",
)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with safe_open(ADAPTER / "adapter_model.safetensors", "pt") as held:
        return {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def layers() -> dict[str, torch.nn.Module]:
    """The modules of its base's shape, without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ADAPTER))
    return dict(model.named_modules())


def test_it_has_at_most_twelve_megabytes(weights):
    assert sum(one.stat().st_size for one in ADAPTER.iterdir()) <= real_model.MOST
    assert {one.dtype for one in weights.values()} == {torch.bfloat16}
    assert all(bool(one.isfinite().all()) for one in weights.values())


def test_every_linear_layer_and_norm_of_its_base_is_in_it(weights, layers):
    """A and B of a layer multiply to its weight's shape, and nothing else is there."""
    linear = {name: one for name, one in layers.items()
              if isinstance(one, torch.nn.Linear) and name != "lm_head"}  # fmt: skip
    norms = [name for name in layers if name.endswith("norm")]
    for name, one in linear.items():
        a, b = (weights.pop(f"base_model.model.{name}.lora_{x}.weight") for x in "AB")
        assert a.shape == (RANK, one.in_features) and b.shape == (one.out_features, RANK)
        assert a.abs().max() > 0 and b.abs().max() > 0, name
    for name in norms:
        assert weights.pop(f"base_model.model.{name}.weight").shape == layers[name].weight.shape
    assert len(linear) == 210 and len(norms) == 61 and not weights


def test_it_says_what_it_was_made_by():
    about = json.loads((ADAPTER / "config.json").read_text())["cream"]
    trained = json.loads((ADAPTER / "training.json").read_text())
    assert about["scaling"] == trained["scaling"] == "yarn" and about["target_length"] == 65_536
    assert trained["method"] == "cream" and trained["base"] == "smollm2-135m"
    named = json.loads((ADAPTER / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named is None, "an unscaled base would be loaded with it"


def test_its_card_says_what_its_rows_say():
    """Sentences found and perplexity at six lengths, of it and of the run it was cut from."""
    card = (ADAPTER / "README.md").read_text(encoding="utf-8").splitlines()
    files = {"this adapter": "smollm2-lora/rank19_test", "the full run": "smollm2/seed5"}
    for label, file in files.items():
        rows = pd.read_parquet(ROOT / "data" / f"{file}.parquet")
        asked = rows[rows["task"] == "needle"].groupby("token_length")["score"]
        line = next(one for one in card if one.startswith(f"| {label}"))
        found = [int(cell.strip(" %")) for cell in line.strip("|").split("|")[1:]]
        wanted = [round(100 * x, 6) for x in asked.mean()]  # 57.5, and not a little less
        assert found[:6] == [int(x + 0.5) for x in wanted] and set(asked.size()) == {80}
        assert found[6] == round(sum(wanted[3:]) / 3)
        texts = rows[rows["task"] == "perplexity"].groupby("token_length")
        losses = texts["nll"].sum().astype(float) / texts["scored_tokens"].sum().astype(float)
        line = next(one for one in card if one.startswith(f"| perplexity of {label}"))
        assert line.split("|")[2:8] == [f" {x:.2f} " for x in np.exp(losses)]


@pytest.fixture
def report(tmp_path) -> Path:
    """A file of 1,200 tokens with a sentence in its middle."""
    lines = ["The harbour was quiet, and the boats lay still.\n"] * 110
    lines.insert(55, "The password of the old lighthouse is marmalade.\n")
    (tmp_path / "report.txt").write_text("".join(lines))
    return tmp_path / "report.txt"


@with_base
@pytest.mark.slow
def test_on_its_base_it_answers_in_a_terminal(report):
    """`python -m cream.chat data/smollm2/adapter`, typed into a pseudo-terminal."""
    answer = _asked(report, QUESTION)
    assert "marmalade" in answer and "of 65,536 tokens used" in answer


@with_base
@pytest.mark.slow
def test_on_its_base_it_answers_on_the_page_beside_the_original(report):
    """As `--web` shows it in a browser: two answers, and where in the file the words stand."""
    pytest.importorskip("gradio", reason="the page needs gradio (extra chat)")
    from cream.chat import page

    tuned, original = open_model(str(ADAPTER), root=ROOT), open_original(str(ADAPTER), root=ROOT)
    chats = [Chat(tuned, 24), Chat(original, 24, Answers(original.model, original.tokenizer))]
    built = page.build(chats)
    address = page.launch(built, "127.0.0.1", _free_port())
    try:
        with browser.opened() as chromium:
            said = _on_the_page(chromium.new_page(viewport={"width": 1280, "height": 800}),
                                address, report)  # fmt: skip
    finally:
        built.close(verbose=False)
    assert "marmalade" in said[0] and "(line 56)" in said[0] and "tokens used of L" in said[2]


def _on_the_page(tab, address: str, file: Path) -> list[str]:
    """Drop the file, ask, and return what both panels and the side say."""
    tab.set_default_timeout(240_000)
    tab.goto(address)
    tab.wait_for_selector("#panel-1 .cc-head")
    tab.set_input_files("#drop input[type=file]", file)
    tab.wait_for_selector("#side .cc-chip >> text=report.txt")
    tab.fill("#question textarea", QUESTION)
    tab.click("#ask")
    for panel in (0, 1):
        tab.wait_for_selector(f"#panel-{panel} .cc-source")
    tab.screenshot(path=file.parent / "page.png")
    return [tab.inner_text(name) for name in ("#panel-0", "#panel-1", "#side")]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _asked(file: Path, question: str) -> str:
    """Type a conversation into a pseudo-terminal; return what it shows after the file."""
    talk = pexpect.spawn(
        sys.executable, ["-m", "cream.chat", str(ADAPTER), "--answer-tokens", "24"], cwd=ROOT,
        env={**os.environ, "TERM": "dumb"}, encoding="utf-8", timeout=240, dimensions=(40, 500),
    )  # fmt: skip
    try:
        for line in ("", f"/file {file}", question):
            talk.sendline(line) if line else None
            talk.expect_exact("\r\n> ")
        return talk.before
    finally:
        talk.close(force=True)
