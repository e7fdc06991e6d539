"""Benches of curation, one file for each part: `python -m bench.curating.PART`."""
