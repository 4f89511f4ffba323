"""A row of an answer as evaluations write it, for tests of what reads rows."""

from cream.utils.provenance import hash_of

HEADER = {
    "run": "cream-s8",
    "model_hash": "0123456789abcdef",
    "method": "cream",
    "scale": 8,
    "window": 512,
    "settings": {"style": "miniature", "max_new_tokens": 8},
}


def row(sample: int, **more: object) -> dict:
    prompt = hash_of("prompt", sample)
    return {"task": "lines", "sample": sample, "prompt_hash": prompt, "score": sample % 2, **more}
