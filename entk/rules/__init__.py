"""One file per layer family; importing this package fills the table `RULES`."""

from entk.rules import activation, conv, elementwise, embedding, linear, norm
from entk.rules.base import RULES, Rule

__all__ = ["RULES", "Rule", "activation", "conv", "elementwise", "embedding", "linear", "norm"]
