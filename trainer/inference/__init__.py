"""Using a trained model: one conversation, a file of questions, and the share of correct answers."""
