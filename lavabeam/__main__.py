"""`python -P -m lavabeam`: the command line without its script."""

from lavabeam.cli.main import main

main()
