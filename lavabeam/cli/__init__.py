"""The `lavabeam` command line: one file per group of commands.

Every import of a room happens inside a command, so that `lavabeam --help` answers at once.
"""
