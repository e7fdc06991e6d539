"""Training: a samples dataset in, checkpoints of a LLaVA model out.

This folder holds the recipe, the table of stages, the checks and previews before a run, the start of its ranks, the
loop and its checkpoints. planning/ decides which rows make a step, inputs/ turns them into tensors, engines/ divide the
model among ranks, metrics/ reports, models/ reads and writes models, inference/ queries them. Imports `schemas` only,
never `pipelines`; loads torch only where needed.
"""
