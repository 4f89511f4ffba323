"""Fine-tuning: a config, a run directory, the trainer.

Belongs here: everything between a `TrainConfig` and `model/`. Does not: data (`data.dataset`) and
evaluation (a probe is handed in). Read first: `config`, then `run` and `trainer`.
`python -m cream.training RUN_DIR` is what every launcher starts.
"""

from cream.training.config import TrainConfig, read_config
from cream.training.run import train

__all__ = [
    "TrainConfig",
    "read_config",
    "train",
]
