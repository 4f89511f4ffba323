"""Made documents that hide facts and ask for them, for training and for evaluations.

Belongs here: the generators, seeded, with disjoint words for training and evaluation. Does not:
prompts and scores of the benchmarks (`tasks`). Read first: `documents`.
"""
