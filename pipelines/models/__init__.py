"""Models of steps: folders that transformers can load, opened with care, and what they make of pictures and texts.

In: a model folder, pictures, texts. Out: unit vectors. No step is known here; those with a model share this room.
"""
