"""What runs on every rank while a stage trains: the loop, the optimizer, checkpoints and metrics."""
