"""Importers of official question-answer sets, with conversations in the form of LLaVA-1.5's training file.

A module per set. Each has two halves: a reader (`read`) that gives `Question`s with everything that the official files
say of them, which evaluation uses too, and an importer (`Family`) that makes turns and rows of them. base.py groups,
counts and slices; reading.py reads and joins; pictures.py finds pictures by their official names.
"""
