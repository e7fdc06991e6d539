"""The training room: a samples dataset flows in, checkpoints of a LLaVA model flow out.

Here lie the recipe, the table of stages, what is checked and shown before a run, and its start on every rank. planning/
says which rows make a step, inputs/ makes tensors of them, runtime/ trains on them, models/ reads and writes
checkpoints, inference/ asks them. Imports `schemas` only, never `pipelines`; torch is loaded where it is needed.
"""
