"""The `lavabeam` command line: one file per group of commands.

Other packages are imported inside commands, so that `lavabeam --help` answers at once.
"""
