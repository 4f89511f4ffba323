"""`python -m cream.study PLAN`: prepare the study, run a plan, merge its records."""

import signal
import sys

from cream.study.runner import main

__all__ = ["main"]


if __name__ == "__main__":
    # Ended from outside, it ends its workers, too: they would hold the card against the next grid.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM: start it again to go on"))
    main()
