"""What the fuzz benches share: their inputs, made by code."""
