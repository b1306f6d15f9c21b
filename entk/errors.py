"""Error types, one per next step of the user; all derive from `EntkError`."""


class EntkError(Exception):
    """Base class: `except EntkError` catches every error that entk raises on purpose."""


class InputError(EntkError, ValueError):
    """An argument cannot be used: pass another one (shape, dtype, device, name, value)."""


class ModelStateError(EntkError, RuntimeError):
    """The per-sample Jacobian is not defined in this state: call `model.eval()` or change it."""


class UnsupportedModelError(EntkError, RuntimeError):
    """The model does something that no path can differentiate per sample: leave that part out."""


class BackendUnavailableError(EntkError, RuntimeError):
    """The named backend cannot serve: use `backend="auto"` or install what is named."""


class ResumeError(EntkError, RuntimeError):
    """Work at this path belongs to another request: pass another path or `resume=False`."""


class LockedError(EntkError, RuntimeError):
    """Another process is writing there: wait until it has finished, or end it."""


class KernelFileError(EntkError, OSError):
    """The file is no kernel of entk's or is damaged, or the disk refuses: write it again."""


class DistributedError(EntkError, RuntimeError):
    """A process of the group failed, died or fell silent: start them again; shards are kept."""


class UndefinedDistanceError(EntkError, ValueError):
    """A kernel that is zero, NaN or infinite has no direction: look at the one named."""
