"""Captions for pictures: reads image bytes, adds a caption and who wrote it (engine, model, version)."""
