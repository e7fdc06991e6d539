"""The code behind `lavabeam demo`.

In: pictures and questions from pip packages. Out: `demo/output` and `demo/summary.json`.
"""
