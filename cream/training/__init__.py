"""Fine-tuning: a config, a run directory, the trainer.

Belongs here: everything between a `TrainConfig` and `model/`. Does not: data (`data.dataset`) and
evaluation (a probe is handed in). Read first: `config`, then `run` and `trainer`.
`python -m cream.training RUN_DIR` is what every launcher starts. For a trainer of one's own there
are `cream.data`'s ExampleDataset and collate, and `check_inputs` here (notebooks/13_your_trainer).
"""

import warnings

from cream.training.config import TrainConfig, read_config
from cream.training.input_check import check_inputs
from cream.training.run import train

# `python -m cream.training.parallel` runs a module that `run` has imported: it only has functions.
warnings.filterwarnings("ignore", "'cream.training.parallel' found in sys.modules", RuntimeWarning)

__all__ = [
    "TrainConfig",
    "check_inputs",
    "read_config",
    "train",
]
