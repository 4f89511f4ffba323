"""The study's figures.

Belongs here: one module a figure. Does not: numbers that are not drawn (`analysis`). Read first:
`forest`, whose intervals the others share.
"""
