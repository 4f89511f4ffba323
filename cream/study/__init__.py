"""The pre-registered comparison of methods over bases and seeds.

Belongs here: its design, its runner, its records, its analysis and figures. Does not: anything that
another user's run needs. Read first: `design`, then `runner`; data/results/PREREGISTRATION.md says
what was fixed beforehand. `python -m cream.study PLAN` runs a plan.
"""
