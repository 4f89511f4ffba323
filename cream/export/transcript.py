"""From a hub id to a served model, family by family: the commands, and what they said on stand-ins.

    python -m cream.export transcript notebooks/families_transcripts.md
    python -m cream.export transcript FILE --llama-cpp LLAMA_CPP --python PYTHON

A stand-in is a tiny random model with the published config's RoPE, window and kinds of layers, and
the miniature's tokenizer. On it every command is run as it is printed. The same commands for the
true weights are printed beside them and were not run: there is no hub and no GPU where this is
written. What belongs here: the families, their commands, and the file.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedConfig

from cream import models, notebook
from cream.presets import named
from cream.rope.base import own_window, parameters_of
from cream.training import run as training_run
from cream.training.callbacks import read_metrics
from cream.utils.provenance import commit, versions

__all__ = ["FAMILIES", "PLACE", "Family", "main", "transcript"]

PLACE = "runs/transcripts"
TOKENIZER = "data/miniature"
SCALE, TOKENS, RANK = 2, 8192, 16
_TINY = {
    "vocab_size": 4352, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A published base: its hub id, its config's class, and what that says of RoPE and layers."""

    name: str
    hub: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """A folder's name."""
        return self.hub.rpartition("/")[2].lower()

    def make(self) -> PreTrainedConfig:
        """Return the stand-in's config."""
        kind = getattr(transformers, self.config)
        return kind(**copy.deepcopy({**_TINY, **self.settings}))


def _rope(theta: float, kind: str = "default", **rest: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **rest}


FAMILIES = (
    Family("Llama 3.1", "meta-llama/Llama-3.1-8B", "LlamaConfig",
           {"max_position_embeddings": 131072, "rope_parameters": _rope(
               5e5, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
               original_max_position_embeddings=8192)}),
    Family("Qwen2.5", "Qwen/Qwen2.5-7B", "Qwen2Config",
           {"max_position_embeddings": 131072, "rope_parameters": _rope(1e6)}),
    Family("Qwen3", "Qwen/Qwen3-8B", "Qwen3Config",
           {"max_position_embeddings": 40960, "rope_parameters": _rope(1e6)}),
    Family("Mistral", "mistralai/Mistral-7B-v0.3", "MistralConfig",
           {"max_position_embeddings": 32768, "sliding_window": None,
            "rope_parameters": _rope(1e6)}),
    Family("Gemma 3", "google/gemma-3-1b-pt", "Gemma3TextConfig",
           {"max_position_embeddings": 32768, "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"full_attention": _rope(1e6), "sliding_attention": _rope(1e4)}}),
    Family("Phi-4", "microsoft/phi-4", "Phi3Config",
           {"max_position_embeddings": 16384, "original_max_position_embeddings": 16384,
            "rope_parameters": _rope(250000.0)}),
)  # fmt: skip


# --------------------------------------------------------------------- the commands


def commands(family: Family, base: str, corpus: str, place: str, *more: str) -> list[str]:
    """Return the commands from a base to an export, as a shell takes them."""
    run = f"{place}/{family.slug}"
    return [
        f"python -m cream.presets llama2-7b {run} base={base} corpus={corpus} scaling=yarn "
        f"scale={SCALE} train_window={TOKENS} lora_rank={RANK} micro_batch=1"
        + "".join(f" {one}" for one in more)
        + " --processes 1",
        f"python -m cream.training {run}",
        f"python -m cream.export {run}",
        f"python -m cream.export check {run}/export --engine transformers --lengths 64,512",
    ]


def _true(family: Family) -> list[str]:
    """The commands for the published weights."""
    corpus, length = f"runs/corpora/{family.slug}", SCALE * (own_window(family.make()) or 0)
    data = (
        f"papermill notebooks/01_data.ipynb runs/01_data-{family.slug}.ipynb -p preset "
        f"smollm2-135m -p tokenizer {family.hub} -p window {TOKENS} -p out {corpus}"
    )
    served = f"vllm serve runs/{family.slug}/export --max-model-len {length}"
    return [data, *commands(family, family.hub, corpus, "runs", "batch_size=16")[:3], served]


def on_stand_in(family: Family, place: str) -> list[str]:
    """The commands for the stand-in below `place`, on text of Python's standard library."""
    base, corpus = f"{place}/{family.slug}-stand-in", f"{place}/{family.slug}-corpus"
    data = (
        f"papermill notebooks/01_data.ipynb {place}/01_data-{family.slug}.ipynb -p preset tiny "
        f"-p share 0.0 -p tokenizer {base} -p window {TOKENS} -p out {corpus}"
    )
    return [data, *commands(family, base, corpus, place, *_SMALL)]


_SMALL = ("steps=2", "batch_size=1", "precision=float32", "recompute=0", "compile=none",
          "save_dtype=float32", "save_steps=0", "workers=0")  # fmt: skip


def _in_gguf(family: Family, place: str, tree: str, python: str) -> list[str]:
    out, file = f"{place}/{family.slug}/export", f"{place}/{family.slug}/model.gguf"
    return [
        f"python -m cream.export gguf {out} {file} --llama-cpp {tree}",
        f"python -m cream.export check {out} --engine llama-server --gguf {file} "
        f"--python {python} --lengths 64,512",
    ]


# --------------------------------------------------------------------- running them


def _programs() -> dict[str, Callable[[list[str]], object]]:
    from cream.export import checkpoint  # whose command this is

    return {
        "cream.presets": named.main,
        "cream.training": training_run.main,
        "cream.export": checkpoint.main,
    }


def _printed_by(command: str) -> str:
    """Run a command and return what it said; RuntimeError where it failed."""
    words = shlex.split(command)
    if words[0] == "papermill":
        told = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
        done = subprocess.run([*told, *words[1:]], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
        return ""
    out, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            _programs()[words[2]](words[3:])
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{command}: {errors.getvalue()[-2000:]}") from ended
    return out.getvalue().strip()


def _stand_in(family: Family, place: str) -> None:
    """Write the stand-in anew, and remove what an earlier transcript left of it."""
    for left in Path(place).glob(f"{family.slug}*"):
        shutil.rmtree(left)
    model = models.create(family.make(), seed=0)
    folder = Path(place, f"{family.slug}-stand-in")
    models.save(model, models.load_tokenizer(TOKENIZER), folder)


def _section(family: Family, place: str, llama_cpp: tuple[str, str] | None) -> str:
    config = family.make()
    window, kind = own_window(config) or 0, parameters_of(config).get("rope_type", "default")
    _stand_in(family, place)
    ran = []
    for command in on_stand_in(family, place):
        ran += _shown(command, _printed_by(command))
        if "cream.training" in command:
            ran += _trained(Path(place, family.slug))
    ran += _llama_cpp(family, place, llama_cpp)
    true = "\n".join(_true(family))
    lines = [
        f"## {family.name}: {family.hub}",
        "",
        f"RoPE of type {kind}, N = {window:,}, extended to L = {SCALE * window:,} on windows of "
        f"{TOKENS:,} tokens, LoRA of rank {RANK}. With the true weights (**not run**):",
        "",
        f"```\n{true}\n```",
        "",
        "On the stand-in (run):",
        "",
        "```",
        *ran,
        "```",
        "",
    ]
    return "\n".join(lines).replace(f"{Path.cwd()}/", "").replace(place, PLACE)


def _shown(command: str, said: str) -> list[str]:
    return [f"$ {command}", *(line.rstrip() for line in said.splitlines())]


def _trained(run: Path) -> list[str]:
    """The first and the last logged loss and the tokens, from metrics.jsonl."""
    rows = [row for row in read_metrics(run / "metrics.jsonl") if "tokens" in row]
    return [f"# metrics.jsonl: step {rows[-1]['step']}, {rows[-1]['tokens']:,} tokens"]


def _llama_cpp(family: Family, place: str, where: tuple[str, str] | None) -> list[str]:
    """Convert for llama.cpp and ask its server, where it is; or say why not."""
    if where is None:
        return ["# llama.cpp: not run, no --llama-cpp was given"]
    found = []
    for command in _in_gguf(family, place, *where):
        shown = command.replace(where[0], "LLAMA_CPP").replace(where[1], "PYTHON")
        try:
            found += _shown(shown, _printed_by(command))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            return [*found, f"$ {shown}", reason.replace(f"{command}: ", "")]
    return found


def transcript(
    families: Sequence[Family] = FAMILIES,
    place: str = PLACE,
    llama_cpp: tuple[str, str] | None = None,
) -> str:
    """Run every family's commands on its stand-in, below `place`; return the file's text.

    `llama_cpp` is its source tree and an interpreter that has xllamacpp, its server. The working
    directory must be the project's root. RuntimeError names a command that failed.
    """
    Path(place).mkdir(parents=True, exist_ok=True)
    sections = [_section(one, place, llama_cpp) for one in families]
    engines = told = ""
    if llama_cpp:
        told = " --llama-cpp LLAMA_CPP --python PYTHON"
        engines = ",\nand, where a section shows it, whose greedy tokens llama.cpp's server gives"
    about = ", ".join(f"{name} {version}" for name, version in versions().items())
    head = f"""\
# From a hub id to a served model

Written by `python -m cream.export transcript notebooks/families_transcripts.md{told}`
at commit {commit()} ({about}).

For each family: the commands for the published weights, which **were not run** (no hub, no GPU
there), and the same commands on a stand-in, which were: a tiny random model with the published
config's RoPE, window and kinds of layers, the tokenizer of `{TOKENIZER}`, and text of Python's
standard library. A stand-in shows that the commands take this family's config from its base to an
export whose logits transformers gives, too{engines}.
It says nothing of answers, of speed or of memory. Where llama.cpp's converter refuses a stand-in
for its tokenizer (the miniature's, under another family's class), the true one is another. No vLLM
or SGLang was run: their commands stand in each export's README.md. `precision`, `compile` and the
rest that the stand-ins set are a CPU's; `dry_run` of 02_train says which cards a run fits on.
"""
    return "\n".join([head, *sections])


def main(arguments: Sequence[str]) -> None:
    """Write the transcripts of the families."""
    parser = argparse.ArgumentParser(prog="python -m cream.export transcript")
    parser.add_argument("file", type=Path, help="the Markdown file to write")
    parser.add_argument("--llama-cpp", help="a source tree of llama.cpp")
    parser.add_argument("--python", default=sys.executable, help="one that has xllamacpp")
    given = parser.parse_args(arguments)
    where = (given.llama_cpp, given.python) if given.llama_cpp else None
    file = given.file.resolve()
    try:
        with contextlib.chdir(notebook.find_root()):
            text = transcript(llama_cpp=where)
    except (OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    file.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(given.file)
