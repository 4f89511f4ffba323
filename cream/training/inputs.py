"""What a run reads: its base, its tokenizer, its examples.

What belongs here: finding them and checking them against each other, before any weights are read.
Loading the weights and training is `run`'s, what an example is `data.dataset`'s.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from cream import models
from cream.data.corpus import open_corpus
from cream.data.dataset import ExampleDataset
from cream.models import bases
from cream.models.checkpoints import check_files
from cream.training.config import TrainConfig

__all__ = ["base_place", "identity", "load_inputs"]


def load_inputs(
    config: TrainConfig, root: Path
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, ExampleDataset]:
    """Return a run's extended config, tokenizer and examples, checked against each other.

    Before the weights are loaded; ValueError says which of base, corpus and sampler does not fit.
    """
    open_corpus(root / config.corpus)  # a missing one is said before the hub is asked for the base
    base = base_place(config.base, root)
    check_files(base)
    tokenizer = models.load_tokenizer(base, revision=config.revision)
    about = models.load_config(base, config.revision)
    extended = models.extend(about, config.rope)
    draw = config.sampler(models.describe(extended)["window"])
    examples = config.steps * config.batch_size
    dataset = ExampleDataset(
        root / config.corpus, draw, config.seed, examples, tokenizer, forward=config.micro_batch
    )
    return extended, tokenizer, dataset


def base_place(base: str, root: Path) -> str:
    """Return a base's folder, or the name as it is for the hub.

    A name like data/typo beside an existing data/ is a missing folder, not a model of the hub.
    """
    if base in bases.NAMED or bases.hub_id(base):
        return bases.place(base, root)
    place = root / base
    folder = place.is_dir() or (Path(base).parent != Path(".") and place.parent.is_dir())
    return str(place) if folder else base


def identity(corpus: Path) -> dict[str, str]:
    """What changes when a corpus folder is replaced by another corpus."""
    manifest = open_corpus(corpus).manifest
    tokens = manifest["splits"]["train"].get("tokens_sha256", "")
    return {"recipe_hash": manifest["recipe_hash"], "tokens_sha256": tokens}
