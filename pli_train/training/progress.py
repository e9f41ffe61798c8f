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
"""Seconds between lines when stderr is not a terminal that can show a bar."""


class NullReporter:
    """Report nothing."""

    def say(self, line: str) -> None:
        """Report a line of text."""

    def begin(self, done: int, total: int) -> None:
        """Report the start of training: `done` of `total` steps are done."""

    def step(self, done: int, note: str) -> None:
        """Report that `done` steps are done; `note` has loss, layers and throughput."""

    def end(self) -> None:
        """Report the end of training."""


class ConsoleReporter(NullReporter):
    """Show lines and a bar on stderr; if that is not a terminal, print a line every few seconds instead of the bar."""

    def __init__(self) -> None:
        self._bar = console.Bar("steps")
        self._total, self._from, self._began, self._last = 0, 0, 0.0, 0.0

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        console.put(line)

    def begin(self, done: int, total: int) -> None:
        """Start the bar and its clock."""
        self._total, self._from, self._bar = total, done, console.Bar("steps")
        self._began = self._last = time.monotonic()

    def step(self, done: int, note: str) -> None:
        """Update the bar, or print a line if the last one is more than `EVERY` seconds old."""
        if console.is_drawable():
            self._bar(done, self._total, note)
        elif (now := time.monotonic()) - self._last > EVERY:
            self._last = now
            self.say(console.progress_line(done, self._total, now - self._began, "steps", self._from, note))

    def end(self) -> None:
        """Remove the bar."""
        console.erase()


class ProgressBar(Callback):
    """Show a run's progress with a reporter."""

    def __init__(self, show: NullReporter) -> None:
        self._show, self._loss = show, float("nan")

    def on_train_begin(self, state: TrainingState, total_steps: int) -> None:
        """Start the bar."""
        self._show.begin(state.step, total_steps)

    def on_log(self, state: TrainingState, logged: Logged) -> None:
        """Update the bar when throughput is logged, which is the last of a step's values."""
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
