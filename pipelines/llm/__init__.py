"""The request layer: requests to an LLM in, answers out, each paid for once and never beyond the cap.

In: `ChatRequest` (provider, model, parameters, messages, images, answer schema). Out: `Answer` (text, usage, cost, a
status; never an exception). Between them: the content-addressed cache, the spend ledger, the rate, and one retry
policy. `caption` and `generate` share it. The HTTP is the official `openai` client's.
"""
