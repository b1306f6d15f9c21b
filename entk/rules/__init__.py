"""One file per layer family; importing this package fills the table `RULES`."""

from entk.rules import add, conv, embedding, linear, norm, recurrent
from entk.rules.base import RULES, Rule

__all__ = ["RULES", "Rule", "add", "conv", "embedding", "linear", "norm", "recurrent"]
