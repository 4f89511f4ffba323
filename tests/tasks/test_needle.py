"""A hidden sentence: lengths, depths to the token, the official prompt, scoring."""

from collections import Counter
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from cream.evaluation.runner import keyed
from cream.results import Rows
from cream.tasks import needle, paragraphs
from cream.tasks.needle import examples, grid, questions, score

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chat_tokenizer(tiny_tokenizer):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def tokens_before(tokenizer, prompt: str, mark: str) -> int:
    """How many of the prompt's tokens, as the model reads them, end before `mark` begins."""
    start = prompt.index(mark)
    found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    return sum(end <= start for _, end in found["offset_mapping"])


def hay_tokens(tokenizer, example) -> int:
    """Tokens of an example's text alone: what is hidden, said before and asked, taken away."""
    body = example.prompt.partition(needle.DESCRIPTION)[2] or example.prompt
    text = body[: body.rindex("\n\nWhat is the best" if needle.NEEDLE in body else "\nWhat is")]
    lines = [line for line in text.split("\n") if "The best thing to do in" not in line]
    return len(tokenizer("\n".join(lines), add_special_tokens=False)["input_ids"])


def test_prompts_fill_the_length_with_the_haystack(haystack, tiny_tokenizer):
    for example in examples(tiny_tokenizer, haystack, [512, 1500], 8):
        num_tokens = len(tiny_tokenizer(example.prompt + example.target)["input_ids"])
        assert 0.95 * example.token_length < num_tokens <= example.token_length
        *text, question = example.prompt.split("\n")
        place = question.split("to do in ")[1].split("?")[0]
        hidden = f"The best thing to do in {place} is to{example.target}"
        assert sum(hidden in line for line in text) == 1


def test_without_depths_they_are_spread(haystack, tiny_tokenizer):
    built = examples(tiny_tokenizer, haystack, [512], 10)
    assert [e.depth_percent // 25 for e in sorted(built, key=lambda e: e.depth_percent)][::3] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    assert built[:4] == examples(tiny_tokenizer, haystack, [512], 4)


@pytest.mark.parametrize(
    ("prediction", "exact", "contained"),
    [
        (" lamok a dotel in tizam.", 1, 1),
        (" lamok a dotel in tizam", 1, 1),
        (" lamok a dotel in tizam and more.", 0, 1),
        (" lamok a dotel in.", 0, 0),
        ("", 0, 0),
    ],
)
def test_exact_and_contained(prediction, exact, contained, haystack, tiny_tokenizer):
    example = examples(tiny_tokenizer, haystack, [512], 1)[0]
    example = replace(example, target=" lamok a dotel in tizam.")
    found = score(prediction, example)
    assert (found["score"], found["contained"]) == (exact, contained)
    assert (found["rouge_l"] == 1) == exact and 0 <= found["rouge_l"] <= 1


def test_a_haystack_too_short_is_refused(tiny_tokenizer):
    with pytest.raises(ValueError, match="fewer than a prompt of 512: join more texts"):
        examples(tiny_tokenizer, "A short text.", [512], 1)


@pytest.mark.thinned
@pytest.mark.parametrize("style", ["miniature", "official"])
@pytest.mark.parametrize("length", [700, 2000])
def test_the_sentence_stands_after_exactly_its_share_of_tokens(
    style, length, haystack, tiny_tokenizer
):
    """Depth 0 before the first token of the text, 100 after its last; cut words may shift one."""
    before = tiny_tokenizer(needle.VICUNA.partition("{prompt}")[0] + needle.DESCRIPTION)
    before = len(before["input_ids"]) - 1 if style == "official" else 0
    for example in grid(tiny_tokenizer, haystack, [length], samples=2, style=style):
        place = tokens_before(tiny_tokenizer, example.prompt, "\nThe best thing to do in")
        wanted = hay_tokens(tiny_tokenizer, example) * example.depth_percent / 100
        assert place - before == pytest.approx(wanted, abs=4)
        body = example.prompt.partition(needle.DESCRIPTION)[2] or example.prompt
        if example.depth_percent == 0:
            assert body.lstrip("\n").startswith("The best thing")
        if example.depth_percent == 100:
            assert body.count("The best thing") > 0
            after = body[body.index("The best thing") :].split("\n", 1)[1]
            assert after.lstrip("\n").startswith("What is the best thing")


def test_the_release_is_off_by_its_description(haystack, tiny_tokenizer):
    """Its depth 0 leaves D tokens of text before the sentence, and the deepest all end it."""
    built = grid(tiny_tokenizer, haystack, [700], style="official", placement="release")
    description = len(tiny_tokenizer(needle.DESCRIPTION)["input_ids"]) - 1
    wrapper = len(tiny_tokenizer(needle.VICUNA.partition("{prompt}")[0])["input_ids"]) - 1
    places = [
        tokens_before(tiny_tokenizer, one.prompt, "\n" + needle.NEEDLE) - wrapper - description
        for one in built
    ]
    text = hay_tokens(tiny_tokenizer, built[0])
    for one, found in zip(built, places, strict=True):
        wanted = min(text, description + round((text - 1) * one.depth_percent / 100))
        assert found == pytest.approx(wanted, abs=4)
    assert places[0] > 30 and abs(places[-1] - places[-2]) < 4
    starts = {one.prompt.partition(needle.DESCRIPTION)[2][:40] for one in built}
    assert starts == {haystack[:40]}
    assert {one.how["mode"] for one in built} == {"alone, placed as in the release"}


def test_depths_of_the_release_that_make_one_prompt_keep_a_row_each(
    haystack, tiny_tokenizer, tmp_path
):
    """Both lie behind the last token; neither's answer stands for the other's cell."""
    how = {"style": "official", "placement": "release"}
    built = grid(tiny_tokenizer, haystack, [700], (50, 98, 100), **how)
    assert [one.prompt for one in built].count(built[-1].prompt) == 2
    with Rows(tmp_path / "rows.jsonl", {"model_hash": "m", "settings": {}}) as rows:
        assert len(keyed(built, rows)) == 3
    exact = grid(tiny_tokenizer, haystack, [700], (50, 98, 100), style="official")
    assert all("depth" not in one.how for one in exact)


@pytest.mark.parametrize("style", ["miniature", "official"])
def test_a_grid_fills_its_lengths_and_never_passes_them(style, haystack, tiny_tokenizer):
    built = grid(tiny_tokenizer, haystack, [600, 1300], samples=2, style=style)
    cells = Counter((one.token_length, one.depth_percent) for one in built)
    assert len(cells) == 20 and set(cells.values()) == {2}
    for one in built:
        tokens = len(tiny_tokenizer(one.prompt + one.target)["input_ids"])
        assert one.token_length - 8 <= tokens <= one.token_length
    assert len({one.document for one in built}) == len(built)


def test_a_cell_does_not_depend_on_the_other_cells(haystack, tiny_tokenizer):
    """So that a rerun with more depths, lengths or samples asks only what is new."""
    few = grid(tiny_tokenizer, haystack, [600], [0, 100], seed=3)
    more = grid(tiny_tokenizer, haystack, [900, 600], needle.DEPTHS_PAPER, samples=2, seed=3)
    prompts = {one.prompt_hash for one in more}
    assert {one.prompt_hash for one in few} <= prompts and len(prompts) == 40
    other = grid(tiny_tokenizer, haystack, [600], [0, 100], seed=4)
    assert not prompts & {one.prompt_hash for one in other}


@pytest.mark.parametrize("style", needle.STYLES)
def test_prompts_are_those_of_whole_texts_tokens(style, haystack, chat_tokenizer, monkeypatch):
    """Cut at empty lines or not."""
    hidden = 2 if style in ("miniature", "sentences") else 1
    asked = {"style": style, "hidden": hidden, "samples": 2}
    found = grid(chat_tokenizer, haystack, [400, 1500], **asked)
    monkeypatch.setattr(paragraphs, "may_cut", lambda tokenizer: False)
    assert found == grid(chat_tokenizer, haystack, [400, 1500], **asked)


def test_of_a_grid_the_named_examples_alone_are_built(haystack, tiny_tokenizer):
    """They are the same as among all; of sentences hidden together the whole page comes."""
    whole = grid(tiny_tokenizer, haystack, [200, 300], (0, 50, 100), 3)
    named = {(300, 50.0, 2), (200, 0.0, 0)}
    few = grid(tiny_tokenizer, haystack, [200, 300], (0, 50, 100), 3, only=named)
    assert {(one.token_length, one.depth_percent, one.sample) for one in few} == named
    assert all(one in whole for one in few)
    page = grid(tiny_tokenizer, haystack, [300], (0, 50, 100), 2, hidden=3, only={(300, 50.0, 1)})
    assert [(one.sample, one.depth_percent) for one in page] == [(1, 0.0), (1, 50.0), (1, 100.0)]


def test_sentences_hidden_together_share_all_but_the_question(haystack, tiny_tokenizer):
    built = grid(tiny_tokenizer, haystack, [1200], samples=2, hidden=5)
    texts = {}
    for one in built:
        texts.setdefault(one.document, []).append(one)
    assert len(texts) == 4 and all(len(each) == 5 for each in texts.values())
    for each in texts.values():
        bodies = {one.prompt.rpartition("\n")[0] for one in each}
        assert len(bodies) == 1 and bodies.pop().count("The best thing to do in") == 5
        for one in each:
            place = one.prompt.rpartition("do in ")[2].removesuffix(" is to")
            assert f"The best thing to do in {place} is to{one.target}\n" in one.prompt
    depths = {tuple(sorted(one.depth_percent for one in each)) for each in texts.values()}
    assert depths == {needle.DEPTHS_PAPER[0::2], needle.DEPTHS_PAPER[1::2]}
    assert {one.how["mode"] for one in built} == {"5 together"}


def test_the_official_prompt_is_that_of_the_benchmark(haystack, tiny_tokenizer):
    one = grid(tiny_tokenizer, haystack, [800], [50], style="official")[0]
    assert one.prompt.startswith(
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: There is an "
        "important infomation hidden in the following context. Find the information and memorize "
        "it. I will quiz you about the important information there.\n"
    )
    assert one.prompt.endswith(
        "\n\nWhat is the best thing to do in San Francisco?\nAnswer: ASSISTANT:"
    )
    hidden = (
        "\n\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a "
        "sunny day.\n\n"
    )
    assert one.prompt.count(hidden) == 1 and one.target == hidden.strip()
    assert (one.max_new_tokens, one.stop) == (50, "\n")


def test_a_chat_model_is_asked_through_its_own_template(haystack, chat_tokenizer, tiny_tokenizer):
    one = grid(chat_tokenizer, haystack, [800], [50], style="chat")[0]
    assert one.prompt.startswith("<user>There is an important infomation")
    assert one.prompt.endswith("\nAnswer:<assistant>") and len(one.how["chat_template"]) == 16
    with pytest.raises(ValueError, match="has no chat template"):
        grid(tiny_tokenizer, haystack, [800], [50], style="chat")


@pytest.mark.parametrize(
    ("prediction", "contained", "rouge"),
    [
        (" Eat a sandwich and sit in Dolores Park on a sunny day.\n", 1, 2 / 3),
        (needle.NEEDLE, 1, 1),
        (" Sit in Golden Gate Park.", 0, 4 / 24),
        ("", 0, 0),
    ],
)
def test_scores_of_official_answers(prediction, contained, rouge, haystack, tiny_tokenizer):
    one = grid(tiny_tokenizer, haystack, [800], [50], style="official")[0]
    found = score(prediction, one)
    assert found["score"] == found["contained"] == contained
    assert found["rouge_l"] == pytest.approx(rouge)


@pytest.mark.parametrize("style", needle.STYLES)
def test_a_judge_is_told_the_question(style, haystack, chat_tokenizer):
    """The question alone, whatever the style, also where the text asks of another place."""
    hay = haystack.replace(". ", ". What is the best thing to do in short? ")
    hidden = 2 if style in ("miniature", "sentences") else 1
    built = grid(chat_tokenizer, hay, [700], [0, 50], hidden=hidden, style=style)
    built += examples(chat_tokenizer, hay, [700], 2) if style == "miniature" else []
    found = questions(built)
    assert len(found) == len(built)
    for one in built:
        asked = found[one.prompt_hash]
        place = asked.removeprefix("What is the best thing to do in ").removesuffix("?")
        said = f"The best thing to do in {place} is to{one.target}"
        assert one.prompt.count(asked) == 1
        assert asked == needle.QUESTION if hidden == 1 else said in one.prompt


def test_the_grid_of_the_paper():
    assert [round(4096 * m) for m in needle.LENGTHS_PAPER][::9] == [1024, 32700]
    assert len(needle.LENGTHS_PAPER) == len(needle.DEPTHS_PAPER) == 10
    assert needle.DEPTHS_PAPER == tuple(int(100 * k / 9) for k in range(10))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"style": "long"}, "unknown style 'long'"),
        ({"placement": "middle"}, "unknown placement 'middle'"),
        ({"depths": [0, 101]}, "different per cents from 0 to 100"),
        ({"depths": []}, "different per cents"),
        ({"depths": [5, 5]}, "different per cents"),
        ({"hidden": 0}, "hidden 0 must be at least 1"),
        ({"hidden": 2, "style": "official"}, "1 in style 'official', which has one sentence"),
        ({"samples": 2, "style": "official", "placement": "release"},
         "samples is 2, but placement 'release' in style 'official' has one .* set samples to 1"),
        ({"lengths": [30]}, "has no room for text.*; ask for a longer one$"),
        ({"lengths": [150], "hidden": 10}, "or hide fewer sentences together"),
        ({"lengths": [10**6]}, "fewer than the 1000000 of the longest prompt"),
    ],
)  # fmt: skip
def test_bad_grids_are_named(given, message, haystack, tiny_tokenizer):
    with pytest.raises(ValueError, match=message):
        grid(tiny_tokenizer, haystack, **{"lengths": [400], **given})
