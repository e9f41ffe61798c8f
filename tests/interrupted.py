"""A run that dies in the middle of an update, or is asked to stop, within this process."""

import os
import signal

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


class StopAt(Callback):
    """Asks for a stop, as `kill` does, once so many updates are done."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def kill_and_resume(config, run, at):
    """A run that dies once `at` updates are done, and is then resumed to its end."""
    with pytest.raises(Killed):
        launch.begin(config, run, callbacks=[KillAt(at)]).run()
    launch.resume(config, run).run()
