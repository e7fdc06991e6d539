"""The engine: turns any step into a Beam job. It knows no step by name.

step.py says what a step is; work.py finds what is missing; job.py wires Beam; makers.py make column files; runners.py
says where a job runs.
"""
