"""What every room needs and none owns: provenance, JSON lines, files written whole.

Belongs here: a function that knows nothing of models, data or tasks. Does not: anything with a
word of the method in its name. Read first: `provenance`, which says what a number was made by.
"""
