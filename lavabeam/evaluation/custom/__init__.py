"""Custom benchmarks: any dataset with answers, a choice of metrics, and the comparison of two models.

In: a conversations or samples dataset, or a file of questions with answers. Out: a benchmark like the official ones.
"""
