"""A trained model at work: one conversation, a file of questions, and how many answers are right."""
