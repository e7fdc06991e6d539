"""Evaluation: official benchmarks, from a checkpoint, a server or a file of answers to scores and upload files.

In: a benchmark's official question files, its pictures and, where it is public, its truth. Out: a file of answers, the
file that the benchmark's server takes, and scores equal to those of the published scripts.
"""
