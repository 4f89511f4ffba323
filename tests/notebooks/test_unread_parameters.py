"""A parameter that what was chosen does not read is refused, not ignored; a default never is."""

import ast
from pathlib import Path

import pytest

from cream import notebook
from cream.data import corpus
from cream.models import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(file.stem for file in (ROOT / "notebooks").glob("*.ipynb"))
DATA = "01_data"
LINES, PAIRS, NEEDLE = "03_longchat_lines", "04_lost_in_the_middle", "05_needle"
PERPLEXITY, BENCHMARKS = "07_perplexity", "08_benchmarks"


def run(name: str, given: dict[str, object]) -> None:
    """Execute a notebook's cells, without a kernel, up to the one that raises."""
    space: dict[str, object] = {"__name__": "__main__", "display": print}
    for cell in notebook.cells(ROOT / "notebooks" / f"{name}.ipynb"):
        exec(cell.source if cell.kind == "code" else "", space)
        space.update(given if "parameters" in cell.tags else {})


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        (LINES, {"official": "a", "lengths": "1", "seed": 3},
         "lengths is '1' and seed is 3, but official asks its file's own records: leave out "
         "lengths and seed, or official$"),
        (LINES, {"official": "a", "questions": 2}, "questions is 2, but official"),
        (PAIRS, {"official": "a", "lengths": "1"}, "lengths is '1', but official asks its files'"),
        (PAIRS, {"official": "a", "num_keys": "75"}, "num_keys is '75', but official"),
        (PAIRS, {"official": "a", "digits": 4, "seed": 1}, "digits is 4 and seed is 1, but"),
        (PAIRS, {"num_keys": "75", "lengths": "1"}, "but num_keys says how large objects are"),
        (PAIRS, {"num_keys": "75", "style": "miniature"}, "but style miniature asks short words"),
        (PAIRS, {"lengths": "0.9", "style": "official"},
         "lengths is '0.9', but style official asks the paper's 75 and 140 keys: leave out "
         "lengths, or choose style miniature$"),
        (PAIRS, {"lengths": "0.9", "style": "chat"}, "but style chat asks the paper's 75"),
        (PAIRS, {"digits": 4}, "digits is 4, but short words have no digits: .* give num_keys$"),
        (PAIRS, {"style": "offical"}, "unknown style 'offical'"),
        (NEEDLE, {"haystack": "a", "kind": "manual"},
         "kind is 'manual', but haystack names the texts: leave out kind, or haystack$"),
        (NEEDLE, {"haystack": "a", "corpus": "b"}, "corpus is 'b', but haystack names the texts"),
        (NEEDLE, {"judge_model": "j"}, "judge_model is 'j', but no judge_url .* give judge_url$"),
        (PERPLEXITY, {"source": "pg19", "corpus": "a"}, "corpus is 'a', but source names"),
        (PERPLEXITY, {"field": "nonsense"}, "field is 'nonsense', but .*, or name a source$"),
        (PERPLEXITY, {"revision": "abc", "corpus": "a"}, "revision is 'abc', but"),
        (BENCHMARKS, {"tasks": "boolq", "corpus": "a"}, "corpus is 'a', but tasks says"),
        (BENCHMARKS, {"lengths": "1"}, "lengths is '1', but lengths are of RULER's tasks"),
        (DATA, {"preset": "tiny", "held_out": 0.1},
         "held_out is 0.1, but it is of documents of your own, and the source is 'standard-libr"),
        (DATA, {"preset": "tiny", "split": "test"}, "split is 'test', but it is of documents"),
        (DATA, {"field": "text"}, "field is 'text', but it is of documents"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_before_a_model_is(name, given, says, tmp_path):
    """With the value, the reason and what to choose instead."""
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match=says):
        asked = {} if name == DATA else {"models": "original", "rows": str(rows)}
        run(name, asked | given)
    assert not rows.exists()


@pytest.mark.parametrize(
    ("split", "says"),
    [("validation", r"too short: 1 \(valid "), ("nonsense", "has no split 'nonsense'; it has")],
)
def test_perplexity_reads_the_split_it_is_given(split, says, tmp_path):
    """The document named as too short is of that split."""
    words = load_tokenizer(ROOT / "data" / "miniature")
    made = [{"split": name, "source": "s", "name": name[:5], "kind": "text", "text": "a b " * 200}
            for name in ("test", "validation")]  # fmt: skip
    corpus.build(tmp_path / "made", made, words, 64, {}, progress=False)
    given = {"corpus": str(tmp_path / "made"), "split": split, "lengths": "100"}
    with pytest.raises(ValueError, match=says):
        run(PERPLEXITY, {**given, "rows": str(tmp_path / "rows.jsonl")})


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_refuses_is_a_parameter_of_it(name):
    """A misspelt name would refuse nothing."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    for cell in notebook.cells(path):
        tree = ast.parse(cell.source if cell.kind == "code" else "")
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "attr", "") == "refuse_unread":
                assert {one.value for one in call.args} <= set(notebook.declared(path))
