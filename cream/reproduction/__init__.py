"""From the committed rows to figures/ and REPRODUCTION.md.

Belongs here: the paper's claims beside our verdicts. Does not: measuring anything. Read first:
`document`. `python -m cream.reproduction` writes REPRODUCTION.md.
"""
