"""Sources of one's own: every accepted form gives its text, every bad one says what to change."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from cream.data.chat import PLAIN, ChatTemplate
from cream.data.mixture import RECIPES, Recipe, get, prepare
from cream.data.readers import open_source, standard_library

COMMIT = "0123456789abcdef" * 2 + "01234567"
TURNS = [
    {"from": "gpt", "value": "Too early."},
    {"from": "human", "value": "Hello"},
    {"from": "human", "value": "there"},
    {"from": "gpt", "value": "Hi."},
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %}"
    "{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def texts(source: Path | str, **options: Any) -> list[str]:
    return [each["text"] for each in open_source(str(source), **options).documents]


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def test_json_lines(tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"body": "één"}, {"id": 7, "body": "two"})
    opened = open_source(str(path), field="body")
    found = list(opened.documents)
    assert [each["text"] for each in found] == ["één", "two"]
    assert [each["name"] for each in found] == ["line 1", "7"]
    assert opened.facts["name"] == "a.jsonl" and len(opened.facts["sha256"]) == 64
    with pytest.raises(ValueError, match=r"a.jsonl, line 1 has no text in field 'text'.*body"):
        texts(path)


def test_text_folders(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("B")
    (tmp_path / "sub" / "a.txt").write_text("A")
    assert texts(tmp_path) == ["B", "A"]
    assert texts(tmp_path / "b.txt") == ["B"]
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"bad.txt is not UTF-8: line 1, column 4, .* 0xe9"):
        texts(tmp_path)


def test_saved_datasets(tmp_path, tiny_tokenizer) -> None:
    rows = datasets.Dataset.from_dict({"text": ["x" * 9, "y" * 9]})
    rows.save_to_disk(str(tmp_path / "plain"))
    assert texts(tmp_path / "plain") == ["x" * 9, "y" * 9]
    with pytest.raises(ValueError, match="columns text: no 'body'"):
        texts(tmp_path / "plain", field="body")
    parts = {"train": rows, "test": rows.select([0])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))
    found = list(open_source(str(tmp_path / "parts")).documents)
    assert [each["split"] for each in found] == ["train", "train", "test"]


def test_a_hub_set_of_the_papers_schema(tmp_path, tiny_tokenizer, monkeypatch) -> None:
    """The published sets hold input_ids and text; the same code reads a local one here."""
    ids = [list(range(5, 105)), list(range(9))]
    local = datasets.DatasetDict(
        {"train": datasets.Dataset.from_dict({"text": ["a", "b"], "input_ids": ids})}
    )
    asked = []

    def load(name: str, revision: str | None) -> SimpleNamespace:
        asked.append((name, revision))
        done = {"download_and_prepare": lambda: None, "as_dataset": lambda: local}
        return SimpleNamespace(hash=COMMIT, **done)

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    recipe = Recipe(source="victor-wu/pile_4k_train", window=64, piece_tokens=None, share=0,
                    revision="abc")  # fmt: skip
    corpus = prepare(recipe, tiny_tokenizer, tmp_path / "c", progress=False)
    assert asked == [("victor-wu/pile_4k_train", "abc")]
    assert corpus.split("train").tokens(0).tolist() == ids[0] and corpus.manifest["dropped"] == 1
    assert corpus.manifest["sources"][0]["revision"] == "abc"
    newest = open_source("victor-wu/pile_4k_train").facts
    assert (newest["revision"], newest["commit"]) == (None, COMMIT) and asked[-1][1] is None


def test_an_unreachable_hub_names_the_set_and_what_else_is_accepted(monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"victor-wu/pile_4k_train.*accepted are a .jsonl"):
        texts("victor-wu/pile_4k_train")


@pytest.mark.parametrize("name", ["nowhere.jsonl", "/no/such", "a/b/c", "word"])
def test_what_does_not_exist_is_refused(name) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist; accepted are"):
        open_source(name)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.jsonl", '{"text": "x"}\n{broken\n', "a.jsonl, line 2, is not JSON"),
        ("a.jsonl", '"only a string"\n', "line 1, is no object"),
        ("a.json", '{"text": "x"}', "holds no JSON list"),
        ("a.json", "[", "is not JSON"),
        ("a.json", '[{"conversations": "x"}]', "conversations is no list"),
        ("a.json", '[{"conversations": [{"role": "user"}]}]', "a turn must be"),
        ("a.csv", "x,y", "nothing that is read here"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, tiny_tokenizer, name, content, error) -> None:
    (tmp_path / name).write_text(content)
    chat = ChatTemplate.choose("plain", tiny_tokenizer)
    with pytest.raises(ValueError, match=error):
        texts(tmp_path / name, chat=chat)


def test_sharegpt_goes_through_the_tokenizers_template(tmp_path, tiny_tokenizer) -> None:
    path = tmp_path / "dump.json"
    tool = [{"from": "human", "value": "x"}, {"from": "tool", "value": "y"}]
    path.write_text(json.dumps([{"id": "c1", "conversations": TURNS}, {"conversations": tool}]))
    plain = ChatTemplate.choose("auto", tiny_tokenizer)
    assert plain.name == "plain"
    assert texts(path, chat=plain) == ["User: Hello\nthere\nAssistant: Hi.\n", ""]
    own = type(tiny_tokenizer)(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    own.chat_template = TEMPLATE
    chat = ChatTemplate.choose("auto", own)
    assert chat.name == "tokenizer" and chat.facts() != plain.facts()
    assert texts(path, chat=chat)[0] == "<s>[INST] Hello\nthere [/INST]Hi.</s>"
    recipe = Recipe(source=str(path), window=8, piece_tokens=None, share=0)
    corpus = prepare(recipe, own, tmp_path / "c", progress=False)
    tokens = corpus.split("train").tokens(0).tolist()
    assert tokens.count(own.bos_token_id) == 1 == tokens.count(own.eos_token_id)
    assert tokens[0] == own.bos_token_id and corpus.manifest["dropped"] == 1
    assert corpus.manifest["recipe"]["chat"]["name"] == "tokenizer"


def test_templates_are_refused_by_name(tiny_tokenizer) -> None:
    with pytest.raises(ValueError, match="chat template 'llama' is unknown"):
        ChatTemplate.choose("llama", tiny_tokenizer)
    with pytest.raises(ValueError, match="has no chat template: choose one of plain"):
        ChatTemplate.choose("tokenizer", tiny_tokenizer)
    names = {ChatTemplate.choose(name, tiny_tokenizer).facts()["sha256"] for name in PLAIN}
    assert len(names) == len(PLAIN)


def test_held_out_documents_are_the_same_each_time(tmp_path) -> None:
    path = write_lines(tmp_path / "a.jsonl", *({"text": f"text {i}"} for i in range(1000)))
    first, again = (list(open_source(str(path), held_out=0.1).documents) for _ in range(2))
    assert first == again and len(first) == 1000
    splits = [each["split"] for each in first]
    assert 60 < splits.count("validation") < 140 and 60 < splits.count("test") < 140
    with pytest.raises(ValueError, match="held_out is 0.5"):
        open_source(str(path), held_out=0.5)


def test_copies_of_a_text_are_never_in_two_splits(tmp_path) -> None:
    """By their names alone, 18 of 20 texts that came five times were trained on and held out."""
    path = write_lines(tmp_path / "a.jsonl", *({"text": f"text {i % 100}"} for i in range(500)))
    went: dict[str, set[str]] = {}
    for each in open_source(str(path), held_out=0.2).documents:
        went.setdefault(each["text"], set()).add(each["split"])
    assert all(len(splits) == 1 for splits in went.values())
    assert set.union(*went.values()) == {"train", "validation", "test"}


def test_copies_of_ids_are_never_in_two_splits(tmp_path) -> None:
    rows = datasets.Dataset.from_dict({"input_ids": [[1, 2, i % 20] for i in range(100)]})
    rows.save_to_disk(str(tmp_path / "saved"))
    went: dict[int, set[str]] = {}
    for each in open_source(str(tmp_path / "saved"), held_out=0.2).documents:
        went.setdefault(int(each["input_ids"][2]), set()).add(each["split"])
    assert all(len(splits) == 1 for splits in went.values()) and len(went) == 20


def test_the_standard_library_is_long_enough_for_every_split() -> None:
    found = list(standard_library().documents)
    for split in ("train", "validation", "test"):
        assert sum(each["split"] == split and len(each["text"]) > 9_000 for each in found) >= 3


def test_a_mixture_has_the_share_asked_for(tmp_path, haystack, tiny_tokenizer) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", *({"text": haystack[i * 12_000 :][:12_000]} for i in range(8))
    )
    recipe = Recipe(source=str(path), window=64, piece_tokens=512, generated_tokens=512, share=0.4)
    corpus = prepare(recipe, tiny_tokenizer, tmp_path / "c", progress=False)
    tokens = {kind: 0 for kind in ("text", *recipe.families)}
    for row in corpus.counts().itertuples():
        tokens[row.kind] += row.tokens
    share = 1 - tokens["text"] / sum(tokens.values())
    assert 0.35 < share < 0.45 and all(tokens.values())
    train = corpus.split("train")
    assert train.num_tokens.min() >= 512
    again = prepare(recipe, tiny_tokenizer, tmp_path / "d", progress=False)
    assert again.manifest["splits"] == corpus.manifest["splits"]


def test_a_recipe_is_adjusted_and_says_no_folder(tmp_path, tiny_tokenizer) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"text": "Some words. " * 100})
    recipe = get("miniature", tmp_path, source="a.jsonl", share=0.0, window=64, piece_tokens=0,
                 split="test", seed=None)  # fmt: skip
    assert recipe == Recipe(source=str(path), share=0.0, window=64, piece_tokens=None, split="test")
    corpus = prepare(recipe, tiny_tokenizer, tmp_path / "c", progress=False)
    assert corpus.splits == ("test",)
    assert str(tmp_path) not in json.dumps(corpus.manifest["recipe"])
    with pytest.raises(ValueError, match="no recipe for preset 'mini'"):
        get("mini")
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        prepare(get("miniature", tmp_path, source="a.jsonl", split="dev"), tiny_tokenizer, "d")


def test_recipes_are_checked() -> None:
    assert {"tiny", "miniature", "llama2-7b", "llama2-7b-chat"} <= set(RECIPES)
    for changes, error in (
        ({"share": 1.0}, "share is 1.0"),
        ({"generated_tokens": 8}, "generated_tokens 8 is below the window 512"),
        ({"families": ("poems",)}, "unknown families"),
    ):
        with pytest.raises(ValueError, match=error):
            Recipe(**changes)
