"""What the model is fed: rows of a mix become items, items become tensors, in the order of the plan."""
