"""`python -m cream.export`: write a checkpoint for another engine and check it there."""

from cream.export.checkpoint import main

__all__ = ["main"]


if __name__ == "__main__":
    main()
