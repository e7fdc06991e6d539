"""Models on disk and in memory: joined from parts, loaded for a stage, exported, merged, and read from the original."""
