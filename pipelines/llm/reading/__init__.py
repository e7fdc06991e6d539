"""Reading answers: the text of an LLM flows in, messages or the reason why there are none flow out."""
