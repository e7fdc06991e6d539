"""What a run reports: the figures of a step over all ranks, metrics.jsonl, the progress bar, and trackers."""
