"""The two-phase laboratory: chaos, cone and linear switch of a training run, over entk."""

from twophase.errors import UserError
from twophase.recorder import Recorder
from twophase.study import Study

__all__ = ["Recorder", "Study", "UserError"]
