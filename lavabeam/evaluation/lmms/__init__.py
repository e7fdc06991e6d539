"""lmms-eval as another way to ask: our questions as a task of its own kind, or its tasks, run in its environment.

In: questions and a checkpoint or a server. Out: answers and figures, after lmms-eval's samples were looked through for
what it scores 0 without an error: failed requests, empty answers, rows without a picture. lmms-eval is no dependency:
it runs as a process in an environment of its own (`make lmms-eval`).
"""
