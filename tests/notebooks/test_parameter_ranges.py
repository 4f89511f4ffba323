"""Numbers that no notebook can use are refused in its first cell: 0 never means the preset's."""

import ast
from pathlib import Path

import pytest

from cream import notebook

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
ZERO_MEANS_ZERO = {"seed", "piece_tokens", "historical", "lora_rank", "share", "held_out", "depths"}


def kinds(known: notebook.Parameter) -> list[str]:
    return ast.unparse(known.kind).split(" | ")


CASES = [
    (name, known)
    for name in NAMES
    for known in notebook.declared(FOLDER / f"{name}.ipynb").values()
]
numbers = pytest.mark.parametrize(
    ("name", "known"),
    [(n, k) for n, k in CASES if {"int", "float", "numbers"} & {*kinds(k)}],
    ids=lambda x: x if isinstance(x, str) else x.name,
)


def begun(name: str, **changes: object) -> dict[str, object]:
    declared = notebook.declared(FOLDER / f"{name}.ipynb")
    space = {one.name: one.default for one in declared.values()} | changes
    return notebook.begin(name, space).parameters


@numbers
def test_zero_is_refused_or_means_zero(name, known, capsys):
    if known.name in ZERO_MEANS_ZERO:
        assert float(begun(name, **{known.name: 0})[known.name]) == 0
        return
    with pytest.raises(ValueError, match=rf"{name}: {known.name} is 0(\.0)?; it must be"):
        begun(name, **{known.name: 0})


@numbers
def test_negative_ones_are_refused(name, known):
    with pytest.raises(ValueError, match=f"{known.name} is -1"):
        begun(name, **{known.name: -1})


@numbers
def test_numbers_that_are_not_finite_are_refused(name, known):
    """Where whole numbers are declared as of another kind."""
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{known.name}.*(nan|inf)"):
            begun(name, **{known.name: value})


@pytest.mark.parametrize("text", ["", "abc", "1_0", "1,,2", "1;2", "1, nan", "-1", "1e999", "0,1"])
def test_texts_that_are_no_numbers_above_zero_are_refused(text):
    with pytest.raises(ValueError, match="lengths is"):
        begun("03_longchat_lines", lengths=text)


def test_depths_begin_at_zero(capsys):
    assert begun("05_needle", depths=[0, 50.5, 100])["depths"] == "0,50.5,100"


def test_an_empty_text_is_not_none():
    with pytest.raises(ValueError, match="style is an empty text; leave it out"):
        begun("03_longchat_lines", style="")
    with pytest.raises(ValueError, match="official is an empty text; leave it out"):
        begun("04_lost_in_the_middle", official=" , ")  # names no file, and made objects were asked


@pytest.mark.parametrize(("value", "plain"), [("1e-4", "0.0001"), ("5", "5"), ("2e1", "20")])
def test_a_number_that_yaml_took_for_text_is_told_how_to_write(value, plain):
    with pytest.raises(ValueError, match=f"a str: write {plain} without quotes"):
        begun("02_train", learning_rate=value)


def test_none_is_the_presets(capsys):
    assert begun("03_longchat_lines")["samples"] is None
