"""Empirical neural tangent kernels of any PyTorch module: exact, planned per layer, streamed."""

from entk.kernel import jacobian, ntk, plan_ntk

__all__ = ["jacobian", "ntk", "plan_ntk"]
