"""`python -m cream.training RUN_DIR`: train the run that a directory's config.json describes."""

from cream.training.run import main

__all__ = ["main"]


if __name__ == "__main__":
    main()
