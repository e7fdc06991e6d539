"""Balance: reads the captions of a dataset, adds their noun phrases, and which captions balanced concepts leave out."""

from pipelines.balance.keys import BalanceConfig
from pipelines.balance.step import Balance, BalanceStatus

__all__ = ["Balance", "BalanceConfig", "BalanceStatus"]
