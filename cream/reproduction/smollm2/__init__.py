"""The pages of SmolLM2-135M below data/ (TABLE.md, PRIMARY.md, RETRIEVAL.md ...), from its rows.

Belongs here: which of its runs are compared, by rules written before them, and which numbers stand
on a page. Does not: the miniature's pages (`reproduction.miniature`), how a cell or a difference is
written (`reproduction.method_cells`, `reproduction.paired`), drawing (`plots`). Read first:
`primary`, the rules of the primary comparisons; then `variants`, which runs the others compare.
`python -m cream.reproduction.smollm2 data/smollm2` is `methods`: every method in one table.
"""
