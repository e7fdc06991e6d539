"""One file per benchmark: what it asks, what is right, how it is scored, and what its server takes."""
