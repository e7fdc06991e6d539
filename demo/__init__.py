"""The code behind `lavabeam demo`.

In: pictures and questions out of pip packages. Out: `demo/work` and `demo/summary.json`.
"""
