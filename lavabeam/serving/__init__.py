"""Serving: one OpenAI-compatible address in front of any number of checkpoints. README.md says what flows where."""
