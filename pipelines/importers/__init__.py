"""Importers: turn an existing source into rows of `images` or `conversations`.

In: url lists, folders, archives and question files. Out: tables of base rows, slice by slice.
"""
