"""What stands behind `lavabeam`: one file per group of commands. Arguments flow in, calls into the rooms flow out.

Every import of a room happens inside a command, so that `lavabeam --help` answers at once.
"""
