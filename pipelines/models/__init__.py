"""Shared by steps with a model: safe loading of transformers folders, and embeddings of images and texts.

In: a model folder, pictures, texts. Out: unit vectors. No step is known here; steps with a model share this package.
"""
