"""The pseudo-words and numbers that can be asked for, split into training and evaluation.

What belongs here: what a name or a value may look like, and which split it belongs to. How names
and values become records, documents and questions is `retrieval`'s.
"""

import numpy as np

__all__ = ["SPLITS", "is_evaluation_value", "is_evaluation_word", "labels", "values", "words"]

SPLITS = ("training", "evaluation")

# Few and common: a rare letter makes rare tokens, which a small model copies badly.
_CONSONANTS = "dlmnrst"
_SYLLABLES = tuple(c + v for c in _CONSONANTS for v in "aeiou")
_CLASSES = 7  # divides the 35 syllables and the 7 consonants, so every class is equally large


def _residues(rng: np.random.Generator, split: str, count: int) -> np.ndarray:
    """Draw classes: 0 belongs to evaluation, 1 to 6 to training."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    if split == "evaluation":
        return np.zeros(count, dtype=np.int64)
    return rng.integers(1, _CLASSES, size=count)


def words(
    rng: np.random.Generator, split: str, count: int, syllables: int = 2, coda: bool = True
) -> list[str]:
    """Draw `count` pseudo-words (with repetition) of a split: CVCVC, or longer.

    The indices of a word's parts sum to a multiple of 7 exactly in the evaluation split, so the
    splits share every syllable at every place but no word.
    """
    residue = _residues(rng, split, count)
    last = len(_CONSONANTS) if coda else len(_SYLLABLES)
    free = syllables if coda else syllables - 1
    parts = rng.integers(0, len(_SYLLABLES), size=(count, free))
    rest = (residue - parts.sum(axis=1)) % _CLASSES
    final = rest + _CLASSES * rng.integers(0, last // _CLASSES, size=count)
    endings = _CONSONANTS if coda else _SYLLABLES
    return [
        "".join([_SYLLABLES[p] for p in row]) + endings[end]
        for row, end in zip(parts.tolist(), final.tolist(), strict=True)
    ]


def values(rng: np.random.Generator, split: str, count: int) -> list[str]:
    """Draw `count` five-digit numbers (with repetition): multiples of 7 are for evaluation."""
    sevens = rng.integers(1429, 14285, size=count)  # 10,003 to 99,994
    return [str(v) for v in (sevens * _CLASSES + _residues(rng, split, count)).tolist()]


def is_evaluation_word(word: str) -> bool:
    """Return the split of a pseudo-word made by `words`."""
    word = word.lower()
    parts = [_SYLLABLES.index(word[i : i + 2]) for i in range(0, len(word) - 1, 2)]
    if len(word) % 2:
        parts.append(_CONSONANTS.index(word[-1]))
    return sum(parts) % _CLASSES == 0


def is_evaluation_value(value: int | str) -> bool:
    """Return the split of a number made by `values`."""
    return int(value) % _CLASSES == 0


def labels(rng: np.random.Generator, count: int) -> list[str]:
    """Draw up to `count` different adjective-noun labels, the kind that LongChat-Lines uses."""
    pairs = rng.permutation(len(_ADJECTIVES) * len(_NOUNS))[:count].tolist()
    return [f"{_ADJECTIVES[p // len(_NOUNS)]}-{_NOUNS[p % len(_NOUNS)]}" for p in pairs]


_ADJECTIVES = (
    "able amber ample bold brave brief bright broad calm careful chilly clean clear clever cold "
    "common cosy curious daily damp dark deep dry dusty eager early easy empty even exact faint "
    "fair famous fancy fast fine firm flat fond fresh full gentle glad golden grand green happy "
    "hasty heavy hollow honest hot humble idle keen kind large late lazy light little lively long "
    "loud lucky mellow merry mild modest narrow neat new noble odd old open pale plain polite "
    "proud pure quick quiet rapid rare ready rich ripe rough round rusty safe sharp short shy"
).split()
_NOUNS = (
    "anchor apple apron arrow badge bakery barrel basket beach bell bench bird boat book bottle "
    "branch bread bridge brush bucket button cabin candle canyon carpet castle chair chalk cherry "
    "circle cloud coast coffee comet copper corner cotton cradle dinner door dragon drum eagle "
    "engine farmer feather fence field flute forest fountain garden gate glove guitar hammer "
    "harbor hat hill honey island jacket jewel kettle kitchen ladder lake lamp lantern leaf lemon "
    "letter magnet map market meadow mirror morning mountain needle ocean office onion orchard "
    "paper parrot pencil piano pillow planet pocket pond potato quilt rabbit river road rocket"
).split()
