"""Empirical neural tangent kernels of any PyTorch module: exact, planned per layer, streamed."""

from entk.backends import backends
from entk.density import SpectralDensity, spectral_density
from entk.distance import kernel_distance, kernel_distance_matrix
from entk.dynamics import LinearisedPredictions, linearised_predictions
from entk.errors import (
    BackendUnavailableError,
    DistributedError,
    EntkError,
    InputError,
    KernelFileError,
    LockedError,
    ModelStateError,
    ResumeError,
    UndefinedDistanceError,
    UnsupportedModelError,
)
from entk.kernel import jacobian, ntk, plan_ntk, sketch_error
from entk.linearize import LinearizedModel, linearize
from entk.lock import exclusive
from entk.operator import NTKOperator, ntk_operator
from entk.plan import Plan
from entk.rates import Rates
from entk.regression import KernelRegression, kernel_regression
from entk.similarity import alignment, cka
from entk.spectrum import effective_rank, spectrum
from entk.store import KernelFile, open_kernel
from entk.trajectory import trajectory_distances
from entk.write import write_ntk

__all__ = [
    "BackendUnavailableError",
    "DistributedError",
    "EntkError",
    "InputError",
    "KernelFile",
    "KernelFileError",
    "KernelRegression",
    "LinearisedPredictions",
    "LinearizedModel",
    "LockedError",
    "ModelStateError",
    "NTKOperator",
    "Plan",
    "Rates",
    "ResumeError",
    "SpectralDensity",
    "UndefinedDistanceError",
    "UnsupportedModelError",
    "alignment",
    "backends",
    "cka",
    "effective_rank",
    "exclusive",
    "jacobian",
    "kernel_distance",
    "kernel_distance_matrix",
    "kernel_regression",
    "linearised_predictions",
    "linearize",
    "ntk",
    "ntk_operator",
    "open_kernel",
    "plan_ntk",
    "sketch_error",
    "spectral_density",
    "spectrum",
    "trajectory_distances",
    "write_ntk",
]
