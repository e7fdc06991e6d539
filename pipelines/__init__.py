"""Data pipelines: Beam jobs that add columns to datasets and derive new datasets.

In: lists of URLs and files. Out: `images`, `conversations` and `samples` datasets. Each step has its own package;
`step.py` says what a step is, `run.py` and `job.py` turn one into a Beam job. Imports `schemas` only.
"""

import logging

# Beam says so on every import without its [gcp] extra; our extra [gcp] is what a user of Dataflow installs.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
