"""The training room: a samples dataset flows in, checkpoints of a LLaVA model flow out.

Imports `schemas` only, never `pipelines`; torch is loaded inside the modules that need it.
"""
