"""How LongBench scores an answer: lm-evaluation-harness's metrics where they are right (5.4).

What belongs here: from an answer and the right ones to a number in [0, 1]. Token F1, classes,
counts and paragraph numbers are lm_eval's. Two are ours, because a score must not depend on what
else is installed or on how deep the caller's stack is:

- `rouge`: the same package (rouge 1.0.1), but lm_eval and LongBench turn any error into 0, which it
  raises on long sentences without a full stop, where its recursion runs out of stack;
- `code_sim`: fuzzywuzzy's value changes when python-Levenshtein is installed, and lm_eval skips
  blank lines in front that LongBench counts as the answer.
"""

import contextlib
import difflib
import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

__all__ = ["METRICS", "code_similarity", "find", "rouge_l", "score"]

METRICS = ("qa_f1", "rouge", "classification", "count", "retrieval", "code_sim")


def score(
    metric: str, prediction: str, answers: Sequence[str], all_classes: Sequence[str] = ()
) -> float:
    """Score a prediction in [0, 1] against the answer that suits it best.

    `all_classes` are the names that "classification" may find in it.
    """
    return find(metric)(prediction, answers, all_classes)


@functools.cache
def find(metric: str) -> Callable[[str, Sequence[str], Sequence[str]], float]:
    """Return a metric by its name; ValueError if it has none, ModuleNotFoundError without lm_eval.

    A metric that is found will not fail for want of a package.
    """
    if metric not in METRICS:
        raise ValueError(f"there is no metric {metric!r}: use one of {', '.join(METRICS)}")
    ours = {"rouge": rouge_l, "code_sim": code_similarity}.get(metric)
    if metric == "rouge":
        _import("rouge")
    if ours:
        return lambda said, answers, _: max(ours(said, answer) for answer in answers)
    theirs = getattr(_import("lm_eval.tasks.longbench.metrics"), f"get_{metric}_with_score")

    def scored(said: str, answers: Sequence[str], all_classes: Sequence[str]) -> float:
        row = {"answers": list(answers), "all_classes": list(all_classes)}
        return float(theirs(row, [said])["score"])

    return scored


def rouge_l(prediction: str, answer: str) -> float:
    """ROUGE-L F1 of the `rouge` package: unions of subsequences over sentences, words once each.

    0 where either has nothing between full stops.
    """
    if not any(prediction.split(".")) or not any(answer.split(".")):
        return 0.0
    measure = _import("rouge").Rouge(metrics=["rouge-l"], stats=["f"])
    with _deeper(len(prediction.split()) + len(answer.split())):
        return measure.get_scores(prediction, answer)[0]["rouge-l"]["f"]


def code_similarity(prediction: str, answer: str) -> float:
    """Similarity of the first line that is neither a fence nor a comment to the answer.

    Ratcliff and Obershelp's ratio in whole percent, as fuzzywuzzy 0.18 gives it in pure Python.
    """
    lines = prediction.lstrip("\n").split("\n")
    code = next((one for one in lines if not any(mark in one for mark in ("`", "#", "//"))), "")
    if not code or not answer:
        return float(code == answer)
    return round(100 * difflib.SequenceMatcher(None, code, answer).ratio()) / 100


@contextlib.contextmanager
def _deeper(frames: int) -> Iterator[None]:
    """Allow so many more nested calls: the package walks a table by calling itself."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _import(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fuzzywuzzy's and jieba's, which are not used
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise ModuleNotFoundError(
                f"LongBench's metrics need {name}: pip install -c constraints.txt -e "
                f"'.[evaluation]' ({error})"
            ) from error
