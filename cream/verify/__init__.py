"""Committed rows computed again and compared.

Belongs here: drawing a sample of rows, asking again, saying what differs. Does not: writing rows.
Read first: `rows`. `python -m cream.verify` does all of it.
"""
