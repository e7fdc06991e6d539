"""The page that compares models: a picture, a question, and the answers of several models side by side.

In: a gateway's address. Out: answers on a screen and, if asked for, rows of a `conversations` dataset with their
pictures and votes (`record.py`). The page is a process of its own and talks to the gateway over HTTP like any client.
"""
