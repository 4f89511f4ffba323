"""How fast it is, by one command each; `--rows FILE` appends rows.

    python -m cream.performance generation --lengths 0.6,2,7.8 --samples 50
    python -m cream.performance small-training miniature --corpus random --compile model,layers
    python -m cream.performance generation --shape llama2-7b --tokens 32000 --keys 140
    python -m cream.performance long --shape llama2-7b --lengths 32768,262144

    python -m cream.performance training|step-cost|clex-step|resume|ruler --help
    python -m cream.performance loss|loss-pairs|attention|lora|multi-gpu --help

What belongs here: which module a command is. Each module says what it measures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cream.performance import (
    attention,
    clex_step,
    generation,
    long_context,
    lora,
    loss,
    loss_pairs,
    multi_gpu,
    resume,
    ruler,
    small_training,
    step_cost,
    training,
)

__all__ = ["main"]

OTHERS = {
    "training": training,
    "step-cost": step_cost,
    "clex-step": clex_step,
    "resume": resume,
    "ruler": ruler,
    "loss": loss,
    "loss-pairs": loss_pairs,
    "attention": attention,
    "lora": lora,
    "multi-gpu": multi_gpu,
}
SMALL = (  # name, what it measures, its options, what does it
    ("generation", "LongChat-Lines, in batches and one by one", generation.add_options,
     generation.main),
    ("small-training", "steps of the real Trainer, data included", small_training.add_options,
     small_training.main),
    ("long", "the loss of a long document, in one true forward", long_context.add_long,
     long_context.measure_forwards),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the speed of generation or of training on this machine."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in OTHERS:
        return OTHERS[arguments[0]].main(arguments[1:])
    parser = argparse.ArgumentParser(prog="python -m cream.performance", description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    for name, what, add_options, run in SMALL:
        command = commands.add_parser(name, help=what)
        add_options(command)
        command.add_argument("--rows", metavar="FILE", help="append rows to this JSON Lines file")
        command.set_defaults(run=run)
    for name, module in OTHERS.items():  # listed; their modules read their own options, above
        commands.add_parser(name, help=(module.main.__doc__ or "").split("\n")[0])
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except (MemoryError, ModuleNotFoundError, OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
