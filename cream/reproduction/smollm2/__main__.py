"""`python -m cream.reproduction.smollm2`: write the table, the primary comparisons, two figures."""

from cream.reproduction.smollm2.methods import main

__all__ = ["main"]


if __name__ == "__main__":
    main()
