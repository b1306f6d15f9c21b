"""What the command line prints as one line: status 2 for what a user can put right, else 1."""


class UserError(Exception):
    """The message says what came, what was expected and what to do."""


class DivergedError(UserError):
    """The loss of a training run is no longer finite."""


class JobFailedError(Exception):
    """A job that was sent out failed; the command line ends with status 1."""
