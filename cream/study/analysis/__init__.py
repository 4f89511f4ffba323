"""From the study's records to verdicts.

Belongs here: endpoints, contrasts, and the tables of 10_ablations. Does not: drawing (`figures`).
Read first: `contrasts`.
"""
