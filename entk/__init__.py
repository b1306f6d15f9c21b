"""Empirical neural tangent kernels of any PyTorch module: exact, planned per layer, streamed."""

from entk.backends import backends
from entk.distance import kernel_distance, kernel_distance_matrix
from entk.errors import (
    BackendUnavailableError,
    EntkError,
    InputError,
    KernelFileError,
    ModelStateError,
    ResumeError,
    UndefinedDistanceError,
    UnsupportedModelError,
)
from entk.kernel import jacobian, ntk, plan_ntk, sketch_error
from entk.linearize import LinearizedModel, linearize
from entk.plan import Plan
from entk.rates import Rates
from entk.store import KernelFile, open_kernel
from entk.trajectory import trajectory_distances
from entk.write import write_ntk

__all__ = [
    "BackendUnavailableError",
    "EntkError",
    "InputError",
    "KernelFile",
    "KernelFileError",
    "LinearizedModel",
    "ModelStateError",
    "Plan",
    "Rates",
    "ResumeError",
    "UndefinedDistanceError",
    "UnsupportedModelError",
    "backends",
    "jacobian",
    "kernel_distance",
    "kernel_distance_matrix",
    "linearize",
    "ntk",
    "open_kernel",
    "plan_ntk",
    "sketch_error",
    "trajectory_distances",
    "write_ntk",
]
