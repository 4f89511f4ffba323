"""ROUGE-L of two texts, as the package `rouge` 1.0.1 has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["rouge_l"]


def rouge_l(answer: str, reference: str) -> float:
    """Return the F1 of ROUGE-L as the release's scorer has it (package rouge 1.0.1), 0 to 1.

    Longest common subsequences of words between every two sentences; different words are counted
    once, case matters, a sentence ends at a full stop. (Lin 2004 counts repeated words, and other
    packages ignore case.) An empty answer scores 0.
    """
    ours, theirs = _split(answer), _split(reference)
    common = {word for one in theirs for each in ours for word in _common(one, each)}
    said, wanted = ({word for one in each for word in one} for each in (ours, theirs))
    return 2 * len(common) / (len(said) + len(wanted)) if common else 0.0


def _split(text: str) -> list[list[str]]:
    return [words for part in text.split(".") if (words := part.split())]


def _common(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A longest common subsequence, of several the one that the package finds."""
    longest = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            longest[i + 1, j + 1] = (
                longest[i, j] + 1 if one == other else max(longest[i, j + 1], longest[i + 1, j])
            )
    found, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.append(first[i])
        elif longest[i - 1, j] > longest[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return found
