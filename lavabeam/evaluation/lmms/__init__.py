"""lmms-eval as an alternative runner: our questions as an lmms-eval task, or its own tasks, in its own environment.

In: questions and a checkpoint or a server. Out: answers and figures, after lmms-eval's samples were looked through for
what it scores 0 without an error: failed requests, empty answers, rows without a picture. lmms-eval is no dependency:
it runs as a process in an environment of its own (`make lmms-eval`).
"""
