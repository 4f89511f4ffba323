"""Answers in free text, against a reference: words in common, or the rating of another model.

What belongs here: ROUGE-L, which needs nobody, and the optional judge behind an OpenAI-compatible
endpoint. A judge that refuses, hangs or says no rating has not said "wrong": such answers stay
without a rating, are counted by reason, and are asked again by the next run.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from tqdm import tqdm

from cream.inference.http import Endpoint, RequestFailed, short
from cream.results import Rows
from cream.utils.provenance import hash_of

__all__ = ["Judge", "Judged", "PROMPT", "rate"]

# The criteria of github.com/gkamradt/LLMTest_NeedleInAHaystack (MIT), which the paper's judge had.
CRITERIA = (
    "Score 1: The answer is completely unrelated to the reference.\n"
    "Score 3: The answer has minor relevance but does not align with the reference.\n"
    "Score 5: The answer has moderate relevance but contains inaccuracies.\n"
    "Score 7: The answer aligns with the reference but has minor omissions.\n"
    "Score 10: The answer is completely accurate and aligns perfectly with the reference."
)
PROMPT = (
    "Compare an answer to a question with the reference and give it a score from 1 to 10.\n\n"
    + CRITERIA
    + "\n\nQuestion: {question}\n\nReference: {reference}\n\nAnswer: {answer}\n\n"
    "Reply with the score alone, in double square brackets, as in [[5]]."
)
IN_A_ROW = 3  # answers not reached one after the other, after which the judge is left alone
LEFT_ALONE = "not asked any more"


class Judge:
    """A model behind an OpenAI-compatible endpoint that rates answers from 1 to 10.

    `url` ends where /chat/completions is appended, as in http://localhost:8000/v1; the key, if one
    is needed, stands in CREAM_API_KEY. It is asked at temperature 0 with `prompt`, which has
    {question}, {reference} and {answer}; `timeout` is in seconds.
    """

    def __init__(self, url: str, model: str, prompt: str = PROMPT, timeout: float = 60.0) -> None:
        if not re.match(r"https?://\S+$", url) or not model:
            raise ValueError(
                f"judge_url {url!r} and judge_model {model!r} must be an address, as in "
                "http://localhost:8000/v1, and the name that the server has for its model"
            )
        for name in ("{question}", "{reference}", "{answer}"):
            if name not in prompt:
                raise ValueError(f"the judge's prompt has no {name}, so it could not compare")
        self.model, self.prompt = model, prompt
        self._endpoint = Endpoint(url.rstrip("/"), timeout)

    @property
    def settings(self) -> dict[str, object]:
        """What decides a rating besides the answer; goes into a row's settings."""
        return {"judge": self.model, "judge_prompt": hash_of(self.prompt), "judge_temperature": 0}

    def rating(self, question: str, reference: str, answer: str) -> float:
        """Return 1.0 to 10.0; `RequestFailed` names why there is none."""
        filled = {"question": question, "reference": reference, "answer": answer}
        # One pass, so that braces in an answer stay what they are.
        text = re.sub(r"\{(question|reference|answer)\}", lambda m: filled[m[1]], self.prompt)
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 256,
        }
        return _parsed(self._endpoint.post("chat/completions", body))

    def be_patient(self, patient: bool) -> None:
        """Try again what may pass (an overload, a lost connection), or ask once only."""
        self._endpoint.give_up(not patient)

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()


def _parsed(found: Mapping) -> float:
    """The rating in a reply: [[7]], or a number that is all of it."""
    try:
        said = found["choices"][0]["message"]["content"]
        said = said if isinstance(said, str) else ""
    except (KeyError, IndexError, TypeError):
        raise RequestFailed("no reply in the answer", short(str(found))) from None
    number = r"(10|[1-9])(?:\.0)?"
    marked = set(re.findall(rf"\[\[\s*{number}\s*\]\]", said))
    alone = re.fullmatch(rf"\s*(?:score|rating)?[\s:]*{number}(?:\s*/\s*10)?[\s.]*", said, re.I)
    if len(marked) == 1:
        return float(marked.pop())
    if not marked and alone:
        return float(alone[1])
    raise RequestFailed("no rating in the reply", short(said))


class Judged(NamedTuple):
    """Rated rows, how many answers have no rating by reason, and one instance of each reason."""

    frame: pd.DataFrame
    failures: Counter
    instances: dict[str, str]

    def __str__(self) -> str:
        """Say how many were rated, and what kept the others from it."""
        rated = int(self.frame["judged"].notna().sum())
        lines = [f"{rated} of {len(self.frame)} answers rated by the judge."]
        for kind, count in self.failures.most_common():
            lines.append(f"{count} without a rating: {self.instances[kind]}")
        if self.failures:
            lines.append("Those count neither as right nor as wrong; run this again to ask again.")
        return "\n".join(lines)


@dataclass
class _Failures:
    """What went wrong so far, and whether it is worth asking on."""

    counts: Counter = field(default_factory=Counter)
    instances: dict[str, str] = field(default_factory=dict)
    in_a_row: int = 0

    def add(self, kind: str, said: str) -> None:
        self.counts[kind] += 1
        self.instances.setdefault(kind, said)


def rate(
    frame: pd.DataFrame,
    questions: Mapping[str, str],
    judge: Judge,
    rows: str | Path,
    progress: bool = True,
) -> Judged:
    """Have every answer of `frame` rated that has no rating yet; `judged` holds 1 to 10 or nothing.

    `questions` says what a prompt (by hash) asked. A rated row is written to the file `rows` as
    the answer's own row with the judge in its settings, so another judge or prompt rates anew.
    After `IN_A_ROW` answers in a row that were not reached the others are counted, not asked.
    """
    failures, judged = _Failures(), {}
    with tqdm(total=len(frame), desc="judge", unit="answer", disable=not progress) as bar:
        for _, part in frame.groupby(["model_hash", "run"], dropna=False):
            head = part.iloc[0]
            with Rows(rows, {"model_hash": head["model_hash"], "settings": "{}"}) as file:
                known = file.frame().set_index("key")["judged"]
                for index, row in part.iterrows():
                    judged[index] = _rated(row, questions, judge, file, known, failures)
                    bar.update()
    ratings = pd.Series(judged, dtype="Float64").reindex(frame.index)
    if failures.counts:
        warnings.warn(
            f"the judge gave no rating to {failures.counts.total()} answers", stacklevel=2
        )
    return Judged(frame.assign(judged=ratings), failures.counts, failures.instances)


def _rated(
    row: pd.Series,
    questions: Mapping[str, str],
    judge: Judge,
    file: Rows,
    known: pd.Series,
    failures: _Failures,
) -> float | None:
    """One answer's rating: the one it has, or a new one, written at once."""
    settings = _with_judge(row["settings"], judge)
    key = file.key(row["task"], row["prompt_hash"], row["sample"], settings)
    if not file.missing([key]):
        return known[key]
    if failures.in_a_row >= IN_A_ROW:
        failures.add(LEFT_ALONE, f"{LEFT_ALONE} after {IN_A_ROW} failures in a row")
        return None
    asked = questions[row["prompt_hash"]], str(row["target"]), str(row["prediction"])
    try:
        rating = judge.rating(*(text.strip() for text in asked))
    except RequestFailed as error:
        reached = error.kind.startswith("no rating")
        failures.in_a_row = 0 if reached else failures.in_a_row + 1
        failures.add(error.kind, str(error))
        judge.be_patient(reached)
        return None
    failures.in_a_row = 0
    judge.be_patient(True)
    own = {name: value for name, value in row.dropna().items() if name not in _ANEW}
    file.append({**own, "settings": settings, "judged": rating})
    return rating


_ANEW = ("schema", "key", "date", "versions", "commit")


def _with_judge(settings: str, judge: Judge) -> str:
    return json.dumps({**json.loads(settings), **judge.settings}, sort_keys=True)
