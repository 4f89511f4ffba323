"""What each task of LongBench v1 asks: lm-evaluation-harness's definitions, put right (5.4).

What belongs here: from a task's name to its prompt, its limits and its metric. Prompts, limits and
metrics are read from the installed lm_eval; here stands only where it deviates from LongBench:

- triviaqa, samsum: one newline between examples and question where LongBench has two;
- passage_count, passage_retrieval_en: the space that ends the prompt is lost;
- lcc, repobench-p: the newline that ends the prompt is lost;
- trec, triviaqa, samsum: it stops at the first newline, also where that opens the answer; LongBench
  drops newlines in front, then takes the first line;
- samsum: it has no least length. The release forbids ends and newlines for 40 tokens;
- its data are a reformatted copy, see `longbench.data`; its ROUGE and code scores, see
  `longbench.metrics`; it truncates on the left, LongBench in the middle, see `tasks.longbench`.

Every prompt and limit is compared with LongBench's by its hash before anything is asked, so that
another release of lm_eval cannot change a number unseen.
"""

import difflib
import functools
import importlib.metadata
import importlib.resources
import re
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

from cream.utils.provenance import hash_of

__all__ = ["CATEGORIES", "TASKS", "Definition", "checked_tasks", "definition"]

CATEGORIES = {
    "single_doc_qa": ("narrativeqa", "qasper", "multifieldqa_en"),
    "multi_doc_qa": ("hotpotqa", "2wikimqa", "musique"),
    "summarization": ("gov_report", "qmsum", "multi_news"),
    "few_shot": ("trec", "triviaqa", "samsum"),
    "synthetic": ("passage_count", "passage_retrieval_en"),
    "code": ("lcc", "repobench-p"),
}
TASKS = tuple(task for tasks in CATEGORIES.values() for task in tasks)

# Hashes of (prompt, max_new_tokens) of THUDM/LongBench's config/dataset2{prompt,maxlen}.json (MIT).
_OFFICIAL = {
    "narrativeqa": "993667b02e88eb6b",
    "qasper": "de7bcdf8edc790d0",
    "multifieldqa_en": "9ae836f6f3d11be9",
    "hotpotqa": "a7cca2d161c3f301",
    "2wikimqa": "a7cca2d161c3f301",
    "musique": "a7cca2d161c3f301",
    "gov_report": "fa6a55839c4faf56",
    "qmsum": "d235d9812fa3fe8f",
    "multi_news": "505da5dd5330f331",
    "trec": "cc5b814ce70177e4",
    "triviaqa": "28ed3d97bce4bd62",
    "samsum": "1cd81709c8bd6530",
    "passage_count": "756e5323e5e20921",
    "passage_retrieval_en": "a21ce76496904734",
    "lcc": "65ac09f52e492bd5",
    "repobench-p": "06915772ff50592a",
}
_ENDINGS = {
    "triviaqa": ("{context}\n{input}", "{context}\n\n{input}"),
    "samsum": ("{context}\n{input}", "{context}\n\n{input}"),
    "passage_count": ("The final answer is:", "The final answer is: "),
    "passage_retrieval_en": ("The answer is:", "The answer is: "),
    "lcc": ("Next line of code:", "Next line of code:\n"),
    "repobench-p": ("Next line of code:", "Next line of code:\n"),
}
_METRIC = re.compile(r"metrics\.get_(\w+)_with_score")
_INSTALL = "pip install -c constraints.txt -e '.[evaluation]'"


@dataclass(frozen=True)
class Definition:
    """One task: its prompt over {context} and {input}, its limits and the name of its metric.

    `chat` says whether a chat model gets its template around the prompt (11 of the 16), and
    `first_line` whether only the first line of an answer counts.
    """

    task: str
    prompt: str
    max_new_tokens: int
    metric: str
    stop: str | None = None
    min_new_tokens: int = 0

    @property
    def chat(self) -> bool:
        """Whether the release asks it as a user's turn: neither few-shot nor code."""
        return self.task not in (*CATEGORIES["few_shot"], *CATEGORIES["code"])

    @property
    def first_line(self) -> bool:
        """Whether only the first line of an answer counts."""
        return self.task in CATEGORIES["few_shot"]


@functools.cache
def definition(task: str) -> Definition:
    """Read a task from lm_eval and put it right.

    ValueError for a task that is not one of the 16, and for an lm_eval whose prompt or limit is
    not LongBench's after that; ModuleNotFoundError without lm_eval.
    """
    (task,) = checked_tasks([task])
    config = _lm_eval(task)
    prompt = config["doc_to_text"].replace("{{context}}", "{context}")
    prompt = prompt.replace("{{question}}", "{input}")
    lost, whole = _ENDINGS.get(task, ("", ""))
    if not prompt.endswith(whole):
        prompt = prompt.removesuffix(lost) + whole
    limit = config["generation_kwargs"]["max_gen_toks"]
    metric = _METRIC.fullmatch(config["process_results"])
    if hash_of(prompt, limit) != _OFFICIAL[task] or not metric:
        raise ValueError(
            f"lm_eval {importlib.metadata.version('lm_eval')} asks {task} otherwise than LongBench "
            f"does: take the release that constraints.txt names ({_INSTALL})"
        )
    ends = {"stop": "\n", "min_new_tokens": 40} if task == "samsum" else {}
    return Definition(task, prompt, limit, metric[1], **ends)


def checked_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """The names as given; ValueError for none, one that is not of the 16, or one given twice."""
    tasks = tuple(tasks)
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks {', '.join(tasks)!r} must name at least one task, each once")
    for task in tasks:
        if task not in TASKS:
            near = difflib.get_close_matches(task, TASKS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"LongBench has no task {task!r}; {hint}There are: {', '.join(TASKS)}")
    return tasks


class _Loader(yaml.SafeLoader):
    """YAML in which `!function name` is that name."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def _lm_eval(task: str) -> dict:
    try:
        folder = importlib.resources.files("lm_eval.tasks") / "longbench"
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"LongBench's definitions come from lm_eval, which is not installed: {_INSTALL}"
        ) from None
    return yaml.load((folder / f"{task}.yaml").read_text(encoding="utf-8"), _Loader)
