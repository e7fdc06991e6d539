"""The parts of `bench/download.py`: pictures, a server, and one client process per engine."""
