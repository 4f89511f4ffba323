"""Named sets of numbers: a run's config with its evaluations.

Belongs here: numbers, each with where it comes from. Does not: code that uses them. Read first:
`named`. `python -m cream.presets PRESET RUN_DIR field=value` writes a run directory for a launcher.
"""

from cream.presets.named import PRESETS, Evaluation, Preset, base_config, get, names

__all__ = [
    "Evaluation",
    "PRESETS",
    "Preset",
    "base_config",
    "get",
    "names",
]
