"""What an evaluation found, question by question: as a dataset, as a page, and two models compared.

In: the folder that `lavabeam evaluate ... --output` wrote. Out: a conversations dataset, HTML pages, a comparison.
"""
