"""Evaluations: one module a task builds examples and scores answers.

Belongs here: prompts, targets and scores. Does not: running a model over them (`evaluation`). Read
first: `base`, which says what a task is. A new task is one module here and one entry in
`registry`.
"""
