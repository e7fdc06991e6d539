"""Per-question results of an evaluation: as a dataset, as a page, and compared between two models.

In: the folder that `lavabeam evaluate ... --output` wrote. Out: a conversations dataset, HTML pages, a comparison.
"""
