"""Benches of the steps that curate, one file for each: `python -m bench.curating.PART`."""
