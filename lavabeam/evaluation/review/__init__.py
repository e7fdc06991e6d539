"""GPT-assisted evaluation: a judge compares a model's answers with reference answers, given the image context.

In: questions, two files of answers, contexts, rules by category. Out: review files in LLaVA's layout, and their
summary.
"""
