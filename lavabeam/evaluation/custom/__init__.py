"""Any dataset with answers as a benchmark: its questions, ways to score, and what is compared between two models.

In: a conversations or samples dataset, or a file of questions with answers. Out: a benchmark like the official ones.
"""
