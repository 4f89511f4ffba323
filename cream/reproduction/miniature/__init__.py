"""The pages of the miniature below data/, each from its rows: TABLE.md, MARGIN.md, SHARPER.md.

Belongs here: which of the miniature's runs are compared, and which numbers stand on a page. Does
not: rules and claims (`study.analysis`), the look of a cell (`reproduction.method_cells`), drawing
(`plots`). Read first: `methods`, every method in one table; `sharper` takes its lines from
`margin`. `python -m cream.reproduction.miniature.methods data/methods` writes that page.
"""
