"""Benches of the curation steps, one file per step: `python -m bench.curate PART`."""
