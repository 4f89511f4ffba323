"""CREAM: extend a RoPE language model's context window by fine-tuning at its own length.

Text goes in at `corpus`, gets its position ids in `positions`, trains a stock Hugging Face model
in `training`, is questioned by `tasks`, leaves rows in `results`, and `plots` draws them.
"""

__version__ = "0.1.0"
