"""The order of training data: token and image counts flow in, micro-batches of row numbers flow out.

`trainer.plan` is the public interface. Its parts are here, all numpy: the cost model, the order of rows, the division
of a step among ranks, the original LLaVA grouping, the table of strategies, and the report that compares them.
"""
