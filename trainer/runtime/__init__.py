"""What happens on every rank while a stage trains: the loop, the optimizer, checkpoints, and what is told of it."""
