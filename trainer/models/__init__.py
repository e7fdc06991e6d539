"""Models on disk and in memory: assembling, loading for a stage, exporting, merging, importing originals."""
