"""`python -m cream.presets PRESET RUN_DIR field=value`: write a run directory for a launcher."""

from cream.presets.named import main

__all__ = ["main"]


if __name__ == "__main__":
    main()
