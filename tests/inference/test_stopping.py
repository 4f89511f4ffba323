"""Stop strings: found where the whole text has them, at the cost of a few tokens' text."""

import pytest
import torch

from cream.inference.stopping import StopString, cut, decode, until_end


def steps(tokenizer, rule: StopString, rows: list[list[int]], width: int = 0) -> list[list[bool]]:
    """What a rule says after each token of rows of equal length."""
    ids = torch.tensor(rows)
    return [rule(ids[:, : width + n], None).tolist() for n in range(1, ids.shape[1] - width + 1)]


@pytest.mark.parametrize("stop", [">", "is the", "ine w", "\n", "é", "long and not there"])
def test_a_row_ends_when_its_whole_text_holds_the_stop_string(stop, tiny_tokenizer):
    """The slow rule, which decodes everything at every token, says the same."""
    texts = [
        "line word is the <12>\n",
        "is the line wédé the 12345",
        "and a line > is thé\n word",
    ]
    rows = [tiny_tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    least = min(map(len, rows))
    rows = [row[:least] for row in rows]
    wanted = [
        [stop in text for text in decode(tiny_tokenizer, [row[:n] for row in rows])]
        for n in range(1, least + 1)
    ]
    prompts = [[0, 5, *row] for row in rows]
    rule = StopString(tiny_tokenizer, 2, stop)
    assert steps(tiny_tokenizer, rule, prompts, 2) == wanted
    ends = {r: [w[r] for w in wanted].index(True) + 1 for r in range(3) if wanted[-1][r]}
    assert rule.ended == ends
    assert (stop == "long and not there") != any(wanted[-1])


def test_a_prompts_own_stop_string_does_not_count(tiny_tokenizer):
    """Only what is new is looked at."""
    row = tiny_tokenizer("a > b", add_special_tokens=False)["input_ids"]
    rule = StopString(tiny_tokenizer, len(row) - 1, ">")
    assert rule(torch.tensor([row]), None).tolist() == [False]


def test_the_least_number_of_tokens_comes_first(tiny_tokenizer):
    """And what they said before is not forgotten."""
    row = tiny_tokenizer("a>bcd", add_special_tokens=False)["input_ids"]
    said = steps(tiny_tokenizer, StopString(tiny_tokenizer, 0, ">", least=4), [row])
    assert said == [[n >= 4] for n in range(1, len(row) + 1)]


def test_text_is_decoded_by_its_end(tiny_tokenizer):
    """A long answer costs as much a token as a short one."""
    sizes = []

    class Counting:
        def batch_decode(self, rows, **options):
            sizes.extend(len(row) for row in rows)
            return tiny_tokenizer.batch_decode(rows, **options)

    ids = torch.full((2, 200), 40)
    rule = StopString(Counting(), 0, "> ")
    for count in range(1, 201):
        rule(ids[:, :count], None)
    assert len(sizes) == 400 and max(sizes) <= 8


def test_a_tail_that_reads_differently_alone_ends_nothing():
    """Some tokenizers drop a space at the start of a text."""

    class Stripping:
        def batch_decode(self, rows, **_):
            return ["".join(" x"[int(t)] for t in row)[1:] + "x" * (len(row) < 10) for row in rows]

    ids = torch.zeros((1, 30), dtype=torch.long)
    rule = StopString(Stripping(), 0, "x")
    rule.looked = 12
    assert [rule(ids[:, :n], None).item() for n in range(13, 31)] == [False] * 18


def test_what_follows_an_end_is_cut():
    """Texts after the stop string, tokens after the end token."""
    assert cut("12>3>", ">") == "12>" and cut("12", ">") == "12" and cut("12", None) == "12"
    assert until_end([5, 1, 1], 1) == [5, 1] and until_end([5, 7], [1, 7, 9]) == [5, 7]
    assert until_end([5, 1], None) == [5, 1]
