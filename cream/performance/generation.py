"""Questions answered a second: LongChat-Lines in batches, and prompt by prompt.

`python -m cream.performance generation` answers in batches and, in the same run, by a loop that
calls `generate` prompt by prompt with the same stop rule and dtype, both from text to text; with
`--continuous` also by transformers' own continuous batching (`generate_batch`), with `--computed`
also in batches whose every step is computed, none recorded (`inference.recorded`). With a large
`--shape` it measures random weights of it at length, by `long_context`. In its rows `score`
is samples a second, `tokens_per_second` are prompt tokens, `num_tokens` those of a mean prompt, and
`contained` is the share of samples with the tokens of the loop.

What belongs here: measuring through the doors that notebooks use, its table and its rows.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from cream import models, rope
from cream.evaluation import models as evaluation_models
from cream.evaluation.model_spec import ModelSpec
from cream.inference import generation as inference_generation
from cream.inference import recorded
from cream.inference.stopping import StopString, decode
from cream.performance import harness, long_context
from cream.tasks import longchat_lines
from cream.tasks.base import Example
from cream.utils.provenance import hash_of

__all__ = ["add_options", "continuous", "generation", "main", "one_by_one"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": None}
Tokens = list[tuple[int, ...]]


# --------------------------------------------------------------------------- command, table, rows


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


_batch_size.__name__ = "batch size"  # as argparse says it


def add_options(add: argparse.ArgumentParser) -> None:
    """Declare what `main` takes from the command line."""
    add.add_argument("--base", default="data/miniature", help="a base or any checkpoint")
    add.add_argument("--scaling", default="yarn", choices=rope.KINDS, help="none: as it is")
    add.add_argument("--scale", type=int, default=8)
    add.add_argument("--lengths", default="0.6,1,2,4,6,7.8", help="multiples of the window N")
    add.add_argument("--samples", type=int, default=50, help="questions a length")
    add.add_argument("--questions", type=int, default=5, help="questions a record")
    add.add_argument("--batch-size", type=_batch_size, default="auto")
    add.add_argument("--dtype", choices=DTYPES, default="float32",
                     help="float32: the same tokens; auto: as evaluations run here")  # fmt: skip
    add.add_argument("--repeats", type=int, default=3, help="passes, whose median is taken")
    add.add_argument("--seed", type=int, default=0)
    add.add_argument("--continuous", action="store_true",
                     help="by transformers' continuous batching, too")  # fmt: skip
    add.add_argument("--computed", action="store_true",
                     help="in batches without recorded steps, too")  # fmt: skip
    long = add.add_argument_group("at length, of a large shape with random weights (--shape)")
    long_context.add_shape(long, None)
    long.add_argument("--tokens", type=int, default=32_000, help="of a LongChat-Lines record")
    long.add_argument("--lines", type=int, default=8, help="such records asked; 0: none")
    long.add_argument("--keys", type=int, default=140, help="of a key-value object")
    long.add_argument("--pairs", type=int, default=20, help="such questions asked; 0: none")
    long.add_argument("--words", default="data/miniature", metavar="TOKENIZER",
                      help="whose tokens the prompts are in")  # fmt: skip


def main(given: argparse.Namespace) -> None:
    """Measure LongChat-Lines both ways, or a large shape with random weights; print, write rows."""
    if given.shape:
        long_context.measure_answers(given)
        return
    name = "original" if given.scaling == "none" else f"scaled:{given.scaling}:{given.scale}"
    (spec,) = evaluation_models.find(name, given.base)
    lengths = evaluation_models.token_lengths(
        given.lengths, evaluation_models.base_of(given.base).window
    )
    before = harness.machine_state()
    table, header, parted = generation(
        spec, lengths, given.samples, given.questions, given.batch_size,
        DTYPES[given.dtype], given.repeats, given.seed, given.continuous, given.computed,
    )  # fmt: skip
    header["settings"] |= before
    machine = harness.describe_machine(header["card"])
    print(f"{name} of {given.base}, {header['settings']['dtype']}, {machine}")
    print(_compared(table).to_string(index=False))
    print("\n".join(parted) or "every sample has the same tokens as in the loop")
    if given.rows:
        _write(given.rows, table, header)


def _compared(table: pd.DataFrame) -> pd.DataFrame:
    """A line a length with the ways beside each other, and one over all lengths."""
    wide = table.pivot(index="token_length", columns="way")
    others = [way for way in table["way"].unique() if way != "one by one"]
    total = {(key, way): wide[key, way].sum() for key in ("samples", "same") for way in others}
    total |= {("seconds", way): wide["seconds", way].sum() for way in table["way"].unique()}
    peak = ("peak_gib", "batches")
    wide.loc["all"] = pd.Series({**total, peak: wide[peak].max()}, dtype=object)
    samples = wide["samples", "batches"].astype(int)
    alone, together = (wide["seconds", way].astype(float) for way in ("one by one", "batches"))
    more = {}
    if "computed" in others:
        theirs = wide["seconds", "computed"].astype(float)
        more |= {"computed, samples/s": (samples / theirs).round(2),
                 "times as fast as computed": (theirs / together).round(2),
                 "same tokens, computed": wide["same", "computed"].astype(int),
                 "computed, peak GiB": wide["peak_gib", "computed"].astype(float)}  # fmt: skip
    if "continuous" in others:
        theirs = wide["seconds", "continuous"].astype(float)
        more |= {"continuous, samples/s": (samples / theirs).round(2),
                 "times as fast as continuous": (theirs / together).round(2),
                 "same tokens, continuous": wide["same", "continuous"].astype(int)}  # fmt: skip
    return pd.DataFrame(
        {
            "tokens": wide.index,
            "samples": samples,
            "one by one, samples/s": (samples / alone).round(2),
            "batches, samples/s": (samples / together).round(2),
            "times as fast": (alone / together).round(2),
            "same tokens": wide["same", "batches"].astype(int),
            **more,
            "peak GiB": wide[peak].astype(float).round(2),
        }
    ).dropna(axis=1, how="all")


def _write(path: str, table: pd.DataFrame, header: dict[str, object]) -> None:
    for line in table.to_dict("records"):
        about = {"score": "samples a second", "way": line["way"], "samples": line["samples"]}
        harness.append(path, header, {
            "task": "speed_generation", "prompt_hash": line["prompt_hash"],
            "token_length": line["token_length"],
            "num_tokens": round(line["prompt_tokens"] / line["samples"]),
            "settings": {**header["settings"], **about},
            "score": line["samples"] / line["seconds"],
            "contained": line["same"] / line["samples"],
            "tokens_per_second": line["prompt_tokens"] / line["seconds"],
            "peak_gib": harness.known(line["peak_gib"]),
        })  # fmt: skip


# --------------------------------------------------------------------------------- what is timed


def generation(
    spec: ModelSpec,
    lengths: Sequence[int],
    samples: int,
    questions: int = 5,
    batch_size: int | str = "auto",
    dtype: torch.dtype | None = torch.float32,
    repeats: int = 3,
    seed: int = 0,
    paged: bool = False,
    unrecorded: bool = False,
) -> tuple[pd.DataFrame, dict[str, object], list[str]]:
    """Time the ways over `samples` questions a length (tokens), `questions` to a record.

    The median of `repeats` passes, the ways (`paged`: `continuous` too, `unrecorded`: batches of
    computed steps too) in turns after a short warm-up. Returns a table (a line a length and way),
    the header of its rows, and a sentence for each sample where batches and the loop part: in
    float32 none should; in bfloat16 logits that are nearly equal are told apart by rounding, which
    any other batch changes. ValueError for `unrecorded` where no step can be recorded anyway.
    """
    if min(repeats, 1 if batch_size == "auto" else batch_size) < 1:
        raise ValueError(f"repeats is {repeats}, batch_size {batch_size}; both must be at least 1")
    place = models.load_tokenizer(spec.path)
    examples = longchat_lines.examples(place, lengths, samples, seed, questions=questions)
    spec.check(examples, place)
    loaded = spec.load(dtype)
    model, tokenizer = loaded.model, loaded.tokenizer
    batches = _in_batches(batch_size, loaded.allow_beyond)
    ways = {"one by one": one_by_one, "batches": _recorded(batches) if unrecorded else batches}
    ways |= {"computed": _computed(batches)} if unrecorded else {}
    ways |= {"continuous": continuous} if paged else {}
    if unrecorded:
        recorded.check(model)
    lines, parted = [], []
    for length in lengths:
        asked = [one for one in examples if one.token_length == length]
        taken, found = _timed(ways, model, tokenizer, asked, repeats)
        lines += [
            {"token_length": length, "way": way, "samples": len(asked), **_numbers(taken[way]),
             "prompt_tokens": sum(
                 len(inference_generation.tokenize(tokenizer, one.prompt)) for one in asked),
             "same": sum(a == b for a, b in zip(found[way], found["one by one"], strict=True)),
             "prompt_hash": hash_of(*(one.prompt for one in asked))}
            for way in ways
        ]  # fmt: skip
        for way in (way for way in ("batches", "computed") if way in ways):
            parted += _parted(model, tokenizer, asked, found["one by one"], found[way], way)
    about = {"questions": questions, "batch_size": batch_size, "repeats": repeats}
    header = {**loaded.header, "seed": seed, "settings": {**loaded.settings, **about}}
    return pd.DataFrame(lines), header, parted


Way = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Sequence[Example]], Tokens]


@torch.inference_mode()
def one_by_one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example]
) -> Tokens:
    """Answer example after example with one `generate` each, as one would write it without us."""
    found = []
    for one in asked:
        ids = torch.tensor(
            [inference_generation.tokenize(tokenizer, one.prompt)], device=model.device
        )
        width = ids.shape[1]
        rule = [StopString(tokenizer, width, one.stop)] if one.stop else []
        config = inference_generation.settings(
            model, tokenizer, one.max_new_tokens, one.min_new_tokens
        )
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList(rule),
        )
        found.append(tuple(out[0, width:].tolist()))
        decode(tokenizer, [found[-1]])
    return found


def continuous(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example]
) -> Tokens:
    """Answer all examples by transformers' continuous batching, with attention as it pages it.

    It knows no stop string: every token that holds one ends an answer, as the end token does.
    """
    one, prompts = asked[0], [inference_generation.tokenize(tokenizer, a.prompt) for a in asked]
    config = inference_generation.settings(
        model, tokenizer, one.max_new_tokens, one.min_new_tokens
    )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = [*ends, *_holding(tokenizer, one.stop)]
    found = list(model.generate_batch(prompts, generation_config=config).values())
    failed = [each.error for each in found if each.error is not None]
    if failed or len(found) < len(asked):
        raise RuntimeError(
            f"continuous batching gave {len(found) - len(failed)} of {len(asked)} answers: "
            f"{failed[:1] or 'its thread ended'}"
        )
    answers = [tuple(each.generated_tokens) for each in found]
    decode(tokenizer, list(answers[-1]))
    return answers


@functools.lru_cache(maxsize=4)
def _holding(tokenizer: PreTrainedTokenizerBase, stop: str | None) -> tuple[int, ...]:
    """The tokens whose own text holds a stop string."""
    words = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(k for k, text in enumerate(words) if stop and stop in text)


def _in_batches(batch_size: int | str, allow_beyond: bool) -> Way:
    def answer(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example]
    ) -> Tokens:
        """Return the new tokens of each example's answer, in the order of the examples."""
        one, prompts = asked[0], [example.prompt for example in asked]
        done = inference_generation.greedy(
            model, tokenizer, prompts, one.max_new_tokens, one.stop, batch_size,
            one.min_new_tokens, allow_beyond,
        )  # fmt: skip
        return [answered.tokens for answered in sorted(done, key=lambda found: found.index)]

    return answer


def _recorded(batches: Way) -> Way:
    def answer(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example]
    ) -> Tokens:
        """Answer as `batches` does; ValueError where no step of it was a recorded one."""
        with recorded.counted() as taken:
            found = batches(model, tokenizer, asked)
        if not taken.played:
            raise ValueError(
                "no recorded step was played, so there is nothing to compare with computed ones: "
                "ask for more samples a length, or give --batch-size 2 or more"
            )
        return found

    return answer


def _computed(batches: Way) -> Way:
    def answer(
        model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example]
    ) -> Tokens:
        """Answer as `batches` does, every step computed."""
        with recorded.computed():
            return batches(model, tokenizer, asked)

    return answer


def _timed(
    ways: dict[str, Way],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Example],
    repeats: int,
) -> tuple[dict[str, list[tuple[float, float | None]]], dict[str, Tokens]]:
    """Seconds and peak GiB of each way's passes, and what it answered."""
    taken, found = {way: [] for way in ways}, {}
    for answer in ways.values():
        answer(model, tokenizer, asked[:2])
    for _ in range(repeats):
        for way, answer in ways.items():
            harness.fresh()
            seconds, found[way] = harness.timed(functools.partial(answer, model, tokenizer, asked))
            taken[way].append((seconds, harness.peak_gib()))
    return taken, found


def _numbers(passes: list[tuple[float, float | None]]) -> dict[str, float | None]:
    peaks = [peak for _, peak in passes if peak is not None]
    seconds = statistics.median(seconds for seconds, _ in passes)
    return {"seconds": seconds, "peak_gib": max(peaks, default=None)}


@torch.inference_mode()
def _parted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Example],
    first: Tokens,
    second: Tokens,
    way: str,
) -> list[str]:
    """Where answers of a way part from the loop's, and how far apart the two tokens' logits are."""
    said = []
    for one, ours, theirs in zip(asked, first, second, strict=True):
        if ours == theirs:
            continue
        where = f"{way}, {one.token_length} tokens, sample {one.sample}"
        places = [place for place, pair in enumerate(zip(ours, theirs, strict=False))
                  if pair[0] != pair[1]]  # fmt: skip
        if not places:
            said.append(f"{where}: one ends before the other")
            continue
        ids = [*inference_generation.tokenize(tokenizer, one.prompt), *ours[: places[0]]]
        logits = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1]
        gap = (logits[ours[places[0]]] - logits[theirs[places[0]]]).abs().item()
        said.append(f"{where}: parts at new token {places[0] + 1}, by logits {gap:.2g} apart")
    return said
