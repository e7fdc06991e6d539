"""The training room: a samples dataset flows in, checkpoints of a LLaVA model flow out.

This folder holds the recipe, the table of stages, the checks and previews before a run, and the start of its ranks.
planning/ decides which rows make a step, inputs/ turns them into tensors, runtime/ trains on them, models/ reads and
writes checkpoints, inference/ queries them. Imports `schemas` only, never `pipelines`; loads torch only where needed.
"""
