"""The model's inputs: rows of a mix become items, and items become tensors, in the order of the epoch plan."""
