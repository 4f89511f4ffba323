"""`python -m cream.reproduction`: write REPRODUCTION.md from the committed rows."""

import sys

from cream.reproduction.document import main

__all__ = ["main"]


if __name__ == "__main__":
    sys.exit(main())
