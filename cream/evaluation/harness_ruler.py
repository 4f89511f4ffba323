"""RULER's seven tasks that need essays or questions of others, built by lm-evaluation-harness.

What belongs here: which they are, their documents at chosen lengths, and the score of an answer.
`harness` asks them. The six that need no download are `cream.tasks.ruler`, and are refused here.

Data: essays from the hub (baber/paul_graham_essays) and nltk's punkt_tab; SQuAD's and HotpotQA's
development sets by http. What does not come is refused with the reason; nothing stands in for it.

Defects of lm_eval 0.4.13 (field notes of 2026-11, none found as an issue), and what is done here:

- Its qa score averages over the references, NVIDIA's takes the best: answers are scored by
  `cream.tasks.ruler`, as NVIDIA does.
- It draws from the global `random` without a seed, so samples depend on what ran before: seeded
  here for each task and length.
- Its group's average is of length 4,096 alone, and has cwe without its example and fwe without room
  for the answer: the group `ruler` is not taken, nor its cwe and fwe.
- A text grows by 500 words at a time, so prompts are up to so much shorter than their length says;
  the words that begin the answer are not counted, so prompt and answer may be a few tokens longer.
  Not mended: it would be another benchmark. Beyond a model's window `harness` refuses.
- Its 500 samples of a task and length are made anew each time, whatever the limit.
- It loads the tokenizer with remote code allowed: one that names code of its own is refused.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from cream.tasks import ruler
from cream.utils.provenance import hash_of

__all__ = ["LENGTHS", "TASKS", "build", "check", "is_ruler", "length_of", "score"]

ESSAYS = "Paul Graham's essays (hub: baber/paul_graham_essays) and nltk's punkt_tab"
TASKS = {
    **dict.fromkeys(
        ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery"),
        ESSAYS,
    ),
    "ruler_qa_squad": "SQuAD 2.0's development set (rajpurkar.github.io)",
    "ruler_qa_hotpot": "HotpotQA's development set (hub: namlh2004/hotpotqa)",
}
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)  # of which the harness knows a metric
GENERATED = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "ruler_vt", "ruler_cwe",
             "ruler_fwe", "ruler")  # fmt: skip


def is_ruler(name: str) -> bool:
    """Whether a task is one of the seven."""
    return name in TASKS


def check(names: Sequence[str], lengths: Sequence[int] | None, tokenizer: str | Path) -> None:
    """Refuse, before anything is loaded, what cannot be asked; other tasks only have no lengths.

    `tokenizer` is a model's folder. ValueError for a generated task, for lengths that are missing,
    that no task reads or that have no metric in the harness, and for a tokenizer that brings code.
    """
    if given := [name for name in names if name in GENERATED]:
        raise ValueError(
            f"{given[0]} is not taken from the harness, whose cwe, fwe and average are not "
            f"NVIDIA's: ask the generated tasks with 12_ruler, and here {', '.join(TASKS)}"
        )
    if not any(map(is_ruler, names)):
        if lengths:
            raise ValueError(
                f"lengths {list(lengths)} tokens are of RULER's tasks, and no task is one: leave "
                f"lengths out, or name one of {', '.join(TASKS)}"
            )
        return
    if not lengths or (unknown := sorted(set(lengths) - set(LENGTHS))):
        what = f"lengths {unknown} tokens" if lengths else "tasks of RULER without lengths"
        raise ValueError(f"{what}: the harness has RULER at {', '.join(map(str, LENGTHS))} tokens")
    config = Path(tokenizer) / "tokenizer_config.json"
    if config.is_file() and "auto_map" in json.loads(config.read_text()):
        raise ValueError(f"the tokenizer in {tokenizer} names code of its own, which is never run")


def build(
    name: str,
    length: int,
    tokenizer: str | Path,
    harness: Callable[[str], ModuleType],
    seed: int = 42,
) -> Any:
    """Return the harness's task with 500 documents of `length` tokens by the tokenizer in a folder.

    `harness` imports a module of it. Deterministic in (seed, name, length) and the tokenizer.
    ConnectionError when its data do not come, ImportError without its extra packages.
    """
    tasks = harness("lm_eval.tasks")
    folder = Path(tasks.__file__).parent / "ruler"
    about = {"max_seq_lengths": [length], "tokenizer": str(tokenizer)}
    manager = tasks.TaskManager(include_path=[folder], include_defaults=False, metadata=about)
    state = random.getstate()
    random.seed(int(hash_of(seed, name, length), 16))
    try:
        task = manager.load([name])["tasks"][name]
    except ImportError as error:
        raise ImportError(f"{name} needs nltk and wonderwords: {error}") from error
    except (OSError, LookupError, ValueError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConnectionError(
            f"{name} at {length} tokens could not be made ({said}): it needs {TASKS[name]}. "
            "The six generated tasks of RULER need no download: 12_ruler"
        ) from error
    finally:
        random.setstate(state)
    task.set_config(key="num_fewshot", value=0)
    return task


def length_of(task: Any) -> int:
    """Return the length in tokens of a task that `build` made."""
    return int(task.test_docs()[0]["max_length"])


def score(name: str, sample: Mapping[str, Any]) -> float:
    """Score a sample that the harness logged as NVIDIA does: the best reference of qa, else a mean.

    A mean is the share of the answers that are named.
    """
    (answer,) = sample["filtered_resps"]
    match = ruler.match_part if name.startswith("ruler_qa") else ruler.match_all
    return match(ruler.cleaned(answer), sample["doc"]["outputs"])
