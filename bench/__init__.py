"""Measurements: nothing flows in, figures beside those of a peer flow out, the last line as JSON."""
