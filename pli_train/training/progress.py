"""Callback: show progress on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pli_train.core.cli import console
from pli_train.core.run_format import run_folder
from pli_train.training.callback import Callback

if TYPE_CHECKING:
    from pli_train.training.callback import Logged
    from pli_train.training.state import TrainingState

EVERY = 15.0
"""Seconds between lines where stderr is no terminal that can be drawn on."""


class NullReporter:
    """Shows nothing."""

    def say(self, line: str) -> None:
        """Take a line that people would want to read."""

    def begin(self, done: int, total: int) -> None:
        """Training is about to go from `done` to `total` steps."""

    def step(self, done: int, note: str) -> None:
        """`done` steps are done; `note` says how it is going."""

    def end(self) -> None:
        """Training is over."""


class ConsoleReporter(NullReporter):
    """Shows lines and a bar on stderr; where that is no terminal, a line now and then instead of the bar."""

    def __init__(self) -> None:
        self._bar = console.Bar("steps")
        self._total, self._from, self._began, self._last = 0, 0, 0.0, 0.0

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        console.put(line)

    def begin(self, done: int, total: int) -> None:
        """Time the bar from here."""
        self._total, self._from, self._bar = total, done, console.Bar("steps")
        self._began = self._last = time.monotonic()

    def step(self, done: int, note: str) -> None:
        """Move the bar, or print a line when the last one is a while ago."""
        if console.is_drawable():
            self._bar(done, self._total, note)
        elif (now := time.monotonic()) - self._last > EVERY:
            self._last = now
            self.say(console.progress_line(done, self._total, now - self._began, "steps", self._from, note))

    def end(self) -> None:
        """Take the bar away."""
        console.erase()


class ProgressBar(Callback):
    """Shows a run's progress with a reporter."""

    def __init__(self, show: NullReporter) -> None:
        self._show, self._loss = show, float("nan")

    def on_train_begin(self, state: TrainingState, total_steps: int) -> None:
        """Start the bar."""
        self._show.begin(state.step, total_steps)

    def on_log(self, state: TrainingState, logged: Logged) -> None:
        """Move the bar once the values that are logged last are there."""
        _, _, values = logged
        self._loss = values.get(run_folder.LOSS, self._loss)
        if run_folder.TOKENS_PER_SECOND in values:
            throughput, layers = values[run_folder.TOKENS_PER_SECOND], values[run_folder.LAYERS]
            self._show.step(state.step, f"loss {self._loss:.3f}  {layers} layers  {throughput:,.0f} tokens/s")

    def on_evaluate(self, state: TrainingState, values: dict[str, float]) -> None:
        """Print a line when the evaluation follows a growth event."""
        if run_folder.EVAL_LOSS_AFTER_EVENT in values:
            before = [entry["eval_loss"] for entry in state.progress.history if "eval_loss" in entry][-1]
            after = values[run_folder.EVAL_LOSS_AFTER_EVENT]
            shape = f"{len(state.model.layers)} layers ({state.lineage})"
            self._show.say(f"step {state.step}: {shape}, eval loss {before:.3f} → {after:.3f}")

    def on_train_end(self, state: TrainingState) -> None:
        """Remove the bar."""
        self._show.end()
