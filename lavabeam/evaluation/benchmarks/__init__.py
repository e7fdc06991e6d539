"""One file per benchmark: its questions, ground truth, scoring and submission format."""
