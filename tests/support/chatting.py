"""A tiny project to talk to: a random base with a chat template, extended four times."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cream import models

WINDOW, SCALE = 256, 4
LIMIT = WINDOW * SCALE
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def lay_out(
    root: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """Write root/base, root/runs/done (yarn) and root/pyproject.toml; return the tokenizer."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    models.save(model, tokenizer, root / "base")
    (root / "runs/done").mkdir(parents=True)
    config = {"base": "base", "method": "cream", "seed": 0, "steps": 1, "batch_size": 1}
    (root / "runs/done/config.json").write_text(json.dumps(config))
    scaled = models.load(root / "base", scaling="yarn", scale=SCALE)
    models.save(scaled, tokenizer, root / "runs/done/model")
    (root / "pyproject.toml").write_text('[project]\nname = "cream-positions"\n')
    return tokenizer
