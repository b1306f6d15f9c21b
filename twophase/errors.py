"""What a user can put right; the command line prints it as one line and exits with status 2."""


class UserError(Exception):
    """The message says what came, what was expected and what to do."""


class DivergedError(UserError):
    """The loss of a training run is no longer finite."""
