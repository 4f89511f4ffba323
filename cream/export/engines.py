"""Engines: does another inference engine give our logits on an export, beyond its window too?

What belongs here: the questions (prompts, and our own greedy answers to them), the comparison, and
the conversion for llama.cpp. The engine itself runs in `engine_worker`, in a process of its own and
by any Python that has it; ours is the model that `models.load` has checked against the formulas.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from cream import models
from cream.data.retrieval import documents
from cream.export import engine_worker, model_card
from cream.inference.prompt_tokens import num_prompt_tokens, prompt_ids
from cream.rope.base import FULL, parameters_of
from cream.rope.sharper import factor_on_cos
from cream.utils import provenance

__all__ = ["COMMANDS", "FACTS", "check", "compare", "convert", "main", "questions"]

FACTS = "cream.json"  # of an export: what its card says, and the checks made of it
COMMANDS = ("check", "gguf")
NEW_TOKENS = 16  # greedy tokens a prompt
# Largest |difference| of a logit over their standard deviation. Measured on the miniature to 8 N,
# float32: transformers 0, llama.cpp at most 1.1e-3; ours as stock yarn 0.7 to 2.2, without its
# attention factor 0.2 to 0.7, with nearly all greedy tokens equal all the same.
TOLERANCE = 5e-3
TEXTS = (
    "line sadi-kobe: REGISTER_CONTENT is <31415>\nWhat is in line sadi-kobe?",
    "I've 3 apples, they'll cost 12.50; \tdef f(x):\n\n    return x ** 2\n",
    "naïve café, 中文字, ¹²³, “quoted”  -- trailing  ",
)
NEEDS = {"transformers": "transformers and torch", "llama.cpp": "llama-cpp-python",
         "llama-server": "xllamacpp"}  # fmt: skip
GGUF = ("llama.cpp", "llama-server")  # engines that read it


def questions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lengths: list[int]
) -> list[dict[str, Any]]:
    """Return a prompt of each length in tokens, followed by our own greedy answer to it.

    Each is a register of lines with questions between, so that tokens far back decide the answer.
    """
    asked = []
    for length in lengths:
        rng = np.random.default_rng(length)
        count = functools.partial(num_prompt_tokens, tokenizer)
        text = documents.training_document("lines", rng, length, count=count).text
        tokens = prompt_ids(tokenizer, text)[:length]
        if len(tokens) < length:
            raise ValueError(f"the prompt of {length} tokens has {len(tokens)}: use other lengths")
        with torch.no_grad():
            answer = model.generate(
                torch.tensor([tokens]), attention_mask=torch.ones(1, length, dtype=torch.long),
                max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False,
            )  # fmt: skip
        asked.append({"tokens": answer[0].tolist(), "first": length})
    return asked


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Compare logits of shape (tokens, vocabulary): equal greedy tokens, largest difference."""
    if ours.shape != theirs.shape:
        raise ValueError(f"the engine gives logits of shape {theirs.shape}, ours {ours.shape}")
    return {
        "tokens": len(ours),
        "equal": int((ours.argmax(1) == theirs.argmax(1)).sum()),
        "difference": float(np.abs(ours.astype(np.float64) - theirs).max()),
        "spread": float(ours.std()),
    }


def check(
    out: str | Path,
    engine: str,
    python: str | Path | None = None,
    gguf: str | Path | None = None,
    lengths: list[int] | None = None,
) -> dict[str, Any]:
    """Ask an engine what we asked ours, and record the outcome in the export and its card.

    `python` is the interpreter that has the engine, this one if None; `gguf` the file for
    llama.cpp; `lengths` of prompts in tokens, by default within the window, just beyond it, at 2 N
    and at the target length. The engine agrees if logits differ by less than `TOLERANCE`; a server,
    which gives none, if all greedy tokens are equal.
    """
    out = Path(out)
    facts = _facts(out)
    if (engine in GGUF) != (gguf is not None):
        raise ValueError(
            f"--engine {engine} reads {out} itself: leave --gguf out"
            if gguf is not None
            else f"--engine {engine} reads a GGUF file: write one with `python -m cream.export "
            f"gguf {out} FILE --llama-cpp CLONE` and name it with --gguf FILE"
        )
    if gguf is not None and not Path(gguf).is_file():
        raise FileNotFoundError(f"{gguf} does not exist: python -m cream.export gguf writes it")
    model = models.load(out, dtype=torch.float32, device="cpu")
    tokenizer = models.load_tokenizer(out)
    asked = questions(model, tokenizer, lengths or _lengths(facts))
    job = {"engine": engine, "model": str(Path(gguf or out).resolve()), "sequences": asked,
           "texts": list(TEXTS)}  # fmt: skip
    theirs, about = _answers(job, python)
    if "greedy" in about:
        found = [_same_tokens(*pair) for pair in zip(asked, about["greedy"], strict=True)]
    else:
        found = [_same_logits(model, *pair) for pair in zip(asked, theirs, strict=True)]
    record = {
        "engine": engine,
        "version": about["version"],
        "lengths": found,
        "agrees": all(_agrees(one) for one in found),
        "text_equal": about["texts"] == [tokenizer(text)["input_ids"] for text in TEXTS],
        "command": f"python -m cream.export check --engine {engine}",
        "date": datetime.date.today().isoformat(),
        "commit": provenance.commit(),
    }
    _record(out, facts, record)
    return record


def _same_logits(
    model: PreTrainedModel, asked: dict[str, Any], logits: np.ndarray
) -> dict[str, Any]:
    with torch.no_grad():
        tokens = torch.tensor([asked["tokens"]])
        hidden = model.base_model(tokens, attention_mask=torch.ones_like(tokens))[0]
        ours = model.get_output_embeddings()(hidden[0, asked["first"] - 1 :]).numpy()
    return {"length": asked["first"], **compare(ours, logits)}


def _same_tokens(asked: dict[str, Any], greedy: list[int]) -> dict[str, Any]:
    """Compare a server's greedy tokens with ours, place by place."""
    ours = asked["tokens"][asked["first"] :]
    equal = sum(a == b for a, b in zip(ours, greedy, strict=False))
    return {"length": asked["first"], "tokens": len(ours), "equal": equal}


def _agrees(one: dict[str, Any]) -> bool:
    if "difference" not in one:
        return one["equal"] == one["tokens"]
    return one["difference"] <= TOLERANCE * one["spread"]


def _facts(out: Path) -> dict[str, Any]:
    if not (out / FACTS).is_file():
        raise FileNotFoundError(
            f"{out} holds no {FACTS}: it is not an export, python -m cream.export RUN writes one"
        )
    return json.loads((out / FACTS).read_text(encoding="utf-8"))


def _lengths(facts: dict[str, Any]) -> list[int]:
    window, length = facts["window"], max(facts["target_length"], 2 * facts["window"])
    return sorted({window // 2, window + 1, 2 * window - NEW_TOKENS, length - NEW_TOKENS})


def _answers(job: dict[str, Any], python: str | Path | None) -> tuple[list[np.ndarray], dict]:
    with tempfile.TemporaryDirectory() as folder:
        _run(job, python, Path(folder))
        with np.load(Path(folder) / "answers.npz") as answers:
            logits = [answers[f"arr_{i}"] for i in range(len(answers.files))]
        return logits, json.loads((Path(folder) / "answers.json").read_text(encoding="utf-8"))


def _run(job: dict[str, Any], python: str | Path | None, folder: Path) -> None:
    """Run a job in a folder away from ours: names of our modules must not hide others'."""
    python = str(python or sys.executable)
    if shutil.which(python) is None:
        raise FileNotFoundError(f"--python {python}: there is no such interpreter")
    child = shutil.copy(engine_worker.__file__, folder)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # An absolute path that still goes through a virtual environment's link.
    told = [os.path.abspath(shutil.which(python)), child, "job.json"]
    done = subprocess.run(told, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-12:]
        needs = NEEDS.get(job["engine"], "what llama.cpp's converter imports")
        hint = f"\n{python} needs {needs}; --python names another" if _lacks(last) else ""
        raise RuntimeError(f"{job['engine']} failed in {python}:\n" + "\n".join(last) + hint)


def _lacks(lines: list[str]) -> bool:
    return any("ModuleNotFoundError" in line or "ImportError" in line for line in lines)


def _record(out: Path, facts: dict[str, Any], record: dict[str, Any]) -> None:
    facts["checks"].append(record)
    card = out / "README.md"
    text = model_card.with_checks(card.read_text(encoding="utf-8"), facts["checks"])
    for file, content in (
        (card, text),
        (out / FACTS, json.dumps(facts, indent=2, sort_keys=True) + "\n"),
    ):
        beside = file.with_name(f".{file.name}.part-{os.getpid()}")
        beside.write_text(content, encoding="utf-8")
        beside.replace(file)


def convert(
    out: str | Path,
    file: str | Path,
    tree: str | Path,
    python: str | Path | None = None,
    outtype: str = "f32",
    pre: str | None = None,
) -> Path:
    """Write an export as a GGUF file by the converter of a llama.cpp source tree; return it.

    A revised YaRN then gets its factors, which the converter writes for Phi-3 alone. `pre` names
    llama.cpp's pre-tokenizer where the converter does not know the tokenizer; ours, digits one by
    one before GPT-2's pattern, is `smollm`, and `check` compares the tokens of some texts.
    """
    out, file, tree = Path(out), Path(file).resolve(), Path(tree).resolve()
    _facts(out)
    if not (tree / "convert_hf_to_gguf.py").is_file():
        raise FileNotFoundError(f"{tree} holds no convert_hf_to_gguf.py: name a llama.cpp clone")
    if file.exists():
        raise FileExistsError(f"{file} is there already: choose another name or remove it")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent} is no folder: make it first")
    config = AutoConfig.from_pretrained(out)
    rope = parameters_of(config)
    if FULL in config.rope_parameters:
        raise ValueError(
            f"this {config.model_type} turns each layer type by a RoPE of its own, and llama.cpp "
            "reads one list of factors for all layers: serve it with transformers or vLLM"
        )
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".gguf-") as folder:
        part = Path(folder) / file.name
        longrope = None
        if rope["rope_type"] == "longrope":  # whose factor not every base writes down
            longrope = {**rope, "attention_factor": factor_on_cos(config)}
        job = {"engine": "convert", "model": str(out.resolve()), "tree": str(tree),
               "file": str(part), "outtype": outtype, "pre": pre or _pre_tokenizer(out),
               "longrope": longrope}  # fmt: skip
        _run(job, python, Path(folder))
        part.replace(file)
    return file


def _pre_tokenizer(out: Path) -> str | None:
    """Return llama.cpp's name for digits one by one and then GPT-2's pattern, if it is that."""
    file = out / "tokenizer.json"
    kind = json.loads(file.read_text(encoding="utf-8"))["pre_tokenizer"] if file.is_file() else None
    parts = (kind or {}).get("pretokenizers") or [kind or {}]
    digits = {"type": "Digits", "individual_digits": True}
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    alike = len(parts) == 2 and all(
        wanted.items() <= part.items() for wanted, part in zip((digits, last), parts, strict=True)
    )
    return "smollm" if alike else None


def main(arguments: list[str]) -> None:
    """Run `check` or `gguf`, the two commands on an export."""
    parser = argparse.ArgumentParser(prog="python -m cream.export")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check", help="does an engine give our logits on an export?")
    two = commands.add_parser("gguf", help="convert an export for llama.cpp")
    for each in (one, two):
        each.add_argument("out", type=Path, help="the export")
        each.add_argument("--python", help="the interpreter that has the engine; default: this")
    one.add_argument("--engine", required=True, choices=engine_worker.ENGINES)
    one.add_argument("--gguf", type=Path, help="the file for llama.cpp and its server")
    one.add_argument("--lengths", help="of the prompts in tokens, with commas between")
    two.add_argument("file", type=Path, help="the new GGUF file")
    two.add_argument("--llama-cpp", type=Path, required=True, help="a clone of llama.cpp")
    two.add_argument("--outtype", default="f32", help="f32, f16, bf16, q8_0 (default f32)")
    two.add_argument("--pre", help="llama.cpp's name of the pre-tokenizer, where it asks")
    given = parser.parse_args(arguments)
    try:
        (_check if given.command == "check" else _convert)(given)
    except (OSError, ValueError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")


def _convert(given: argparse.Namespace) -> None:
    file = convert(given.out, given.file, given.llama_cpp, given.python, given.outtype, given.pre)
    print(f"{file}\nask it: python -m cream.export check {shlex.quote(str(given.out))} "
          f"--engine llama.cpp --gguf {shlex.quote(str(given.file))}")  # fmt: skip


def _lengths_given(text: str) -> list[int]:
    """Read `--lengths`; ValueError for what is no list of whole numbers from 1."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(
            f"--lengths is {text!r}: give whole numbers of tokens from 1 with commas between, as "
            "in --lengths 256,1024"
        )
    return [int(part) for part in parts]


def _check(given: argparse.Namespace) -> None:
    lengths = _lengths_given(given.lengths) if given.lengths is not None else None
    record = check(given.out, given.engine, given.python, given.gguf, lengths)
    print(f"{record['version']} against cream, float32")
    print(f"{'prompt':>8} {'greedy tokens equal':>20} {'logits differ by':>18} {'of their sd':>12}")
    for one in record["lengths"]:
        equal = f"{one['equal']} of {one['tokens']}"
        if "difference" not in one:
            print(f"{one['length']:>8} {equal:>20} {'not given':>18} {'not given':>12}")
            continue
        relative = one["difference"] / one["spread"]
        print(f"{one['length']:>8} {equal:>20} {one['difference']:>18.1e} {relative:>12.1e}")
    print(f"text becomes {'the same' if record['text_equal'] else 'OTHER'} tokens")
    if not (record["agrees"] and record["text_equal"]):
        raise RuntimeError(f"{given.engine} does not give this model: it DIFFERS from cream's")
