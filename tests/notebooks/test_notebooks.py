"""Every notebook runs under papermill with the `tiny` preset, from any folder, and reads well.

The notebooks that run share one corpus, one run and one folder of rows; `--dist loadfile` keeps
them in one worker of pytest-xdist, so that they are made once.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
import tokenize
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from PIL import Image

from cream import models, notebook, presets, results
from cream.tasks import needle

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCALED = "scaled:yarn:8"


def run(name: str, here: Path, /, **parameters: object) -> str:
    """Execute a notebook into `here`, from there, and return all that it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        book = papermill.execute_notebook(
            ROOT / "notebooks" / f"{name}.ipynb", here / f"{name}.ipynb", parameters,
            progress_bar=False, kernel_name="python3",
        )  # fmt: skip
    streams = [o for c in book.cells for o in c.get("outputs", []) if o.output_type == "stream"]
    return "".join(o.text for o in streams if o.name == "stdout")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the project that kernels start in and everything is written to."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def corpus(place: Path) -> Path:
    """What 01_data makes of the standard library."""
    run("01_data", place, preset="tiny", out=str(place / "corpus"))
    return place / "corpus"


@pytest.fixture(scope="session")
def base(place: Path) -> str:
    """A random base of one narrow layer with the miniature's tokenizer and window."""
    config = models.load_config(ROOT / "data" / "miniature")
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}
    config = type(config)(**{**config.to_dict(), **small, **heads})
    words = models.load_tokenizer(ROOT / "data" / "miniature")
    return str(models.save(models.create(config, seed=0), words, place / "base"))


@pytest.fixture(scope="session")
def tuned(place: Path, corpus: Path, base: str) -> Path:
    """A run of 02_train, four steps long."""
    of = {"preset": "tiny", "base": base, "corpus": str(corpus)}
    said = run("02_train", place, **of, out=str(place / "tuned"))
    assert "Retrieval inside the window" in said
    return place / "tuned"


@pytest.fixture(scope="session")
def rows(place: Path, corpus: Path, base: str, tuned: Path) -> Path:
    """The rows of 03, 04, 05 and 07: three models, the preset's few samples."""
    asked = {"preset": "tiny", "base": base, "models": f"original,{SCALED},{tuned}"}
    folder = place / "rows"
    run("03_longchat_lines", place, **asked, rows=str(folder / "lines.jsonl"))
    run("04_lost_in_the_middle", place, **asked, rows=str(folder / "pairs.jsonl"))
    named = {**asked, "corpus": str(corpus)}
    run("05_needle", place, **named, passkeys=1, rows=str(folder / "needle.jsonl"))
    run("07_perplexity", place, **named, rows=str(folder / "ppl.jsonl"))
    return folder


@pytest.mark.slow
def test_00_method_draws_by_itself(place):
    """No model, no corpus; a window and scale of one's own."""
    said = run("00_method", place, window=512, examples=20)
    assert "Ten examples show CREAM" in said


@pytest.mark.slow
def test_01_data_makes_a_corpus(corpus):
    """A manifest and a split for each use."""
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert set(manifest["splits"]) == {"train", "validation", "test"}
    assert manifest["counts"] and manifest["sources"]


@pytest.mark.slow
def test_02_train_makes_a_model(tuned):
    """A stock checkpoint with its tokenizer, the run's numbers, and retrieval probed twice."""
    config = json.loads((tuned / "model" / "config.json").read_text())
    assert config["max_position_embeddings"] == 8 * 512 and config["cream"]["scale"] == 8
    assert (tuned / "model" / "tokenizer.json").is_file()
    metrics = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert sum("probe_lines" in line for line in metrics) == 2
    assert json.loads((tuned / "config.json").read_text())["steps"] == 4


@pytest.mark.slow
def test_02_train_says_what_a_run_takes_and_stops(place):
    """The paper's run, without its weights, its data set or a GPU; nothing is written."""
    said = run("02_train", place, preset="llama2-7b", dry_run="true", out=str(place / "dry"))
    assert "1,000 steps of 32 x 4,096" in said and "6,738,415,616 parameters" in said
    assert "disk: two checkpoints of 87.9 GiB" in said and "states 100.4" in said
    assert "dry_run: the cells below do nothing" in said
    assert not (place / "dry").exists()


@pytest.mark.slow
def test_03_04_05_07_leave_rows(rows, tuned):
    """As many as models, lengths and samples say, and each model's own."""
    preset = presets.get("tiny").evaluation
    frame = results.read(rows)
    for task, samples in (
        ("longchat_lines", len(preset.lines_lengths) * preset.lines_samples),
        ("kv_retrieval", len(preset.pairs_lengths) * preset.pairs_samples * 5),
        ("needle", len(preset.lines_lengths) * len(needle.DEPTHS_RELEASE)),
        ("passkey", len(preset.lines_lengths)),
        ("perplexity", len(preset.perplexity_lengths) * preset.perplexity_documents),
    ):
        counts = frame[frame["task"] == task].groupby("method").size()
        assert counts.to_dict() == {"original": samples, "scaled": samples, "cream": samples}
    trained = presets.get("tiny").train
    tokens = frame.loc[frame["method"] == "cream", "tokens_trained"]
    assert set(tokens) == {trained.steps * trained.batch_size * 512}
    assert frame["model_hash"].nunique() == 3


@pytest.mark.slow
def test_two_scales_of_one_scaling_are_two_models_in_tables_figures_and_sentences(place, base):
    """Tables by method and scaling had two cells in one place, sentences the mean of both."""
    asked = {"preset": "tiny", "base": base, "models": "scaled:yarn:4,scaled:yarn:8,scaled:ntk:8"}
    own = {**asked, "lengths": "0.6,1.5", "rows": str(place / "scales" / "lines.jsonl")}
    said = run("03_longchat_lines", place, **own)
    for one in ("yarn x4", "yarn x8", "ntk"):
        assert re.search(rf"^scaled, {one}: \d+% up to N, \d+% beyond it", said, re.M), one
    said = run("04_lost_in_the_middle", place, **asked, rows=str(place / "scales" / "pairs.jsonl"))
    assert [line for line in said.splitlines() if re.fullmatch(r"\w+ x\d+:", line)] == [
        "ntk x8:", "yarn x4:", "yarn x8:"]  # fmt: skip
    assert said.count("scaled, yarn x4, ") == said.count("scaled, ntk, ") > 0


@pytest.mark.slow
def test_06_longbench_asks_made_up_samples(place):
    """Three tasks of three kinds, of the base alone."""
    asked = {"preset": "tiny", "models": "original", "tasks": "qasper,trec,lcc"}
    run("06_longbench", place, **asked, rows=str(place / "longbench.jsonl"))
    frame = results.read(place / "longbench.jsonl")
    assert set(frame["task"]) == {"longbench-qasper", "longbench-trec", "longbench-lcc"}
    assert frame["score"].between(0, 1).all()


@pytest.mark.slow
def test_08_benchmarks_asks_the_harness(place, corpus):
    """The small task of the harness's own form: two models, two metrics a document."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    asked = {"preset": "tiny", "models": f"original,{SCALED}", "corpus": str(corpus)}
    run("08_benchmarks", place, **asked, rows=str(place / "benchmarks.jsonl"))
    frame = results.read(place / "benchmarks.jsonl")
    assert frame.groupby("method").size().to_dict() == {"original": 8, "scaled": 8}


@pytest.mark.slow
def test_09_figures_draws_the_rows_it_is_given(rows, place):
    """A user's own: every figure, into the folder that was named, each with its rows' hash.

    The committed ones stay as they are.
    """
    given = {"rows": str(rows), "out": str(place / "figures")}
    said = run("09_figures", place, **given, smollm2="none", secondary="none")
    written = {path.name for path in (place / "figures").iterdir()}
    names = ("longchat_lines", "lost_in_the_middle", "needle", "passkey", "perplexity")
    for name in (*names, "training_curves"):
        assert {f"{name}.png", f"{name}.pdf"} <= written
    assert "Nothing is missing." in said and "means nothing" in said
    for name in ("smollm2", "smollm2_primary", "smollm2_secondary"):
        assert f"{name}: not run" in said and f"{name}.png" not in written
    own = results.current(results.read(rows))
    drawn = results.drawn_from(own[own["task"] == "perplexity"])
    assert Image.open(place / "figures" / "perplexity.png").text["Rows"] == drawn["rows"]
    for name in names:
        ours, theirs = (
            Image.open(folder / f"{name}.png").text["Rows"]
            for folder in (place / "figures", ROOT / "figures")
        )
        assert ours != theirs


@pytest.mark.slow
def test_a_pretrain_makes_a_base(place):
    """Tokenizer, corpus, random weights, two steps, and what the base knows (nothing yet)."""
    out = place / "pretrain"
    said = run("A_pretrain_miniature", place, preset="tiny", samples=2, steps=2, out=str(out))
    assert (out / "run" / "model" / "config.json").is_file()
    assert (out / "tokenizer" / "tokenizer.json").is_file()
    assert len(results.read(out / "skills.jsonl")) == 2 * 3 * 3  # samples, skills, lengths
    assert "inside the window the weakest skill is" in said


@pytest.mark.slow
def test_scale_64_is_trained_and_asked_at_64_windows(place, corpus, base):
    """The line of the README: -p scale 64; its model then reads 32,768 tokens, of a named base."""
    out, rows = place / "s64", place / "s64.jsonl"
    run("02_train", place, preset="tiny", base=base, corpus=str(corpus), scale=64, out=str(out))
    asked = {"lengths": "64", "samples": 1, "questions": 1, "rows": str(rows)}
    named = {"preset": "llama2-7b", "base": base, "models": str(out)}
    run("03_longchat_lines", place, **named, **asked)
    (row,) = results.read(rows).to_dict("records")
    assert row["scale"] == 64 and 0.95 * 64 * 512 < row["num_tokens"] <= 64 * 512
    assert not pd.isna(row["score"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scael": 64}, "02_train has no parameter 'scael'; did you mean 'scale'"),
        ({"scale": "64x"}, r"declares `scale: int \| None = None` and was given '64x', a str"),
    ],
)
def test_a_misspelt_or_mistyped_parameter_stops_02_train(tmp_path, given, says):
    """Before anything is loaded or written."""
    with pytest.raises(papermill.PapermillExecutionError, match=says):
        run("02_train", tmp_path, preset="tiny", out=str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestReading:
    """What a reader meets on opening a notebook."""

    def test_it_opens_with_its_question_cost_and_expectation(self, path):
        """In the first cell; a title, then the parameters cell, then `begin`."""
        first, second, third = nbformat.read(path, 4).cells[:3]
        assert first.cell_type == "markdown" and first.source.startswith("# ")
        assert "**Question.**" in first.source and "**Expect" in first.source
        assert re.search(r"\*\*Cost\.\*\*|\| cost \|", first.source)
        assert second.metadata.get("tags") == ["parameters"]
        assert f'notebook.begin("{path.stem}", globals())' in third.source

    def test_every_parameter_has_a_type_and_a_comment(self, path):
        """As a person reads them, and as papermill does; one of the two has its own ideas."""
        cell = nbformat.read(path, 4).cells[1]
        comments = {t.start[0] for t in _tokens(cell.source) if t.type == tokenize.COMMENT}
        statements = ast.parse(cell.source).body
        assert all(isinstance(each, ast.AnnAssign) for each in statements)
        assert {each.lineno for each in statements} == comments
        read = papermill.inspect_notebook(path)
        assert list(read) == list(notebook.declared(path))
        for name, found in read.items():
            assert found["inferred_type_name"] != "None" and found["help"], name

    def test_cells_are_short_and_define_nothing(self, path):
        """What has a name to be used twice belongs into the package."""
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                tree = ast.parse(cell.source)
                defined = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda)
                assert not any(isinstance(node, defined) for node in ast.walk(tree)), cell.source
                tagged = "parameters" in cell.metadata.get("tags", [])
                assert tagged or len(cell.source.splitlines()) <= 15, cell.source

    def test_it_is_committed_executed_in_order(self, path):
        """From the first cell to the last; papermill's own cell of parameters may be left out."""
        code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        counts = [c.execution_count for c in code]
        assert None not in counts and counts == sorted(set(counts))

    def test_its_outputs_hold_no_error_and_no_path_of_a_machine(self, path):
        """Nor a table or a text that names where the writer's clone lay."""
        book = nbformat.read(path, 4)
        outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
        assert not any(output.output_type == "error" for output in outputs)
        texts = [o.get("text", "") + str(_without_images(o.get("data", {}))) for o in outputs]
        for text in (*texts, *(cell.source for cell in book.cells)):
            found = re.search(r"(?<![\w.])/(home|Users|root|work|tmp|opt|usr|mnt)/\S+", text)
            assert not found and str(ROOT) not in text, found


def _without_images(data: dict[str, str]) -> dict[str, str]:
    return {kind: text for kind, text in data.items() if not kind.startswith("image/png")}


def _tokens(source: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(source).readline))


@pytest.mark.slow
def test_11_efficiency_says_what_was_not_run(place):
    """From committed rows, and from none at all."""
    assert "GPU-hours at best" in run("11_efficiency", place)
    (place / "none").mkdir()
    said = run("11_efficiency", place, rows=str(place / "none"))
    assert said.count("not run: python -m cream.performance ") == 12
    assert "Nothing was run yet." in said


@pytest.mark.slow
def test_13_your_trainer_takes_the_same_step_everywhere(place):
    """With another method and scaling; TRL's part says so where it is not installed."""
    said = run("13_your_trainer", place, out=str(place / "yours"), method="pose", scaling="linear")
    ways = 4 if importlib.util.find_spec("trl") else 3
    assert f"{ways} ways to train took the same step." in said
    assert ("trl.SFTTrainer: not run" in said) == (ways == 3)
    assert said.count("the model was given no ") == 2
