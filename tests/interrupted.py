"""A run that dies in the middle of an update, within this process."""

import pytest

from pli_train.training import launch
from pli_train.training.callback import Callback


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the trainer catches it."""


class KillAt(Callback):
    """Dies in the update that follows so many."""

    def __init__(self, step):
        self.step = step

    def on_gradients(self, state):
        if state.step == self.step:
            raise Killed


def kill_and_resume(config, run, at):
    """A run that dies once `at` updates are done, and is then resumed to its end."""
    with pytest.raises(Killed):
        launch.begin(config, run, callbacks=[KillAt(at)]).run()
    launch.resume(config, run).run()
