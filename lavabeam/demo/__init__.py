"""The code behind `lavabeam demo`.

In: pictures and questions out of pip packages. Out: `demo/output` and `demo/summary.json`.
"""
