"""From the committed rows to figures/ and REPRODUCTION.md.

Belongs here: the paper's claims beside our verdicts, and what the pages of both models share; the
pages themselves have rooms, `smollm2` and `miniature`, which import nothing of each other. Does
not: measuring anything. Read first: `document`. `python -m cream.reproduction` writes
REPRODUCTION.md.
"""
