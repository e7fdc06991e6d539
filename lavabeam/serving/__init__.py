"""Serving: one OpenAI-compatible endpoint for any number of checkpoints. README.md describes the design."""
