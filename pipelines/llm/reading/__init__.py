"""Response parsing: the text of an LLM in, messages or a reason for rejection out."""
