"""Callback: write scalars to TensorBoard event files."""

from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import PliError, not_written
from pli_train.core.run_format import run_folder
from pli_train.training.callback import Callback

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pli_train.config.schema import RunConfig
    from pli_train.core.lineage import Event
    from pli_train.training.callback import Logged
    from pli_train.training.state import TrainingState

FLUSHED_EVERY = 10.0
"""Seconds between flushes, so that readers see new scalars between checkpoints."""


class ScalarWriter:
    """Write a run's scalars to an event file in its folder. All methods but `close` raise PliError on disk errors.

    Each process of a run writes its own file. Readers sort the files by the numbers in their names, which increase
    even when the clock is set back.

    Args:
        folder: the run folder; with None nothing is written (another rank writes, or tracking is off).
        from_step: the first step to be written; readers drop what earlier processes wrote from this step on.
    """

    def __init__(self, folder: Path | None, from_step: int = 0) -> None:
        self._file: Any = None
        self._flushed = time.monotonic()
        if folder is not None:
            from tensorboard.compat.proto.event_pb2 import SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter

            before = max((run_folder.order_of(path) for path in folder.glob(run_folder.SCALARS)), default=0)
            number = max(int(time.time()), before + 1)
            name = run_folder.SCALARS.replace("*", f"{number:010d}.{socket.gethostname()}.{os.getpid()}.0")
            self._path = folder / name
            with self._describe():
                self._file = RecordWriter(self._path.open("xb"))
            self._write(file_version="brain.Event:2")
            self._write(step=from_step, session_log=SessionLog(status=SessionLog.START))
            self.flush()

    def add(self, step: int, values: dict[str, float], wall_time: float | None = None) -> None:
        """Write scalars at `step` (updates done) with `wall_time` in seconds since 1970 (default: now)."""
        if self._file is not None:
            from torch.utils.tensorboard.summary import scalar

            for tag, value in values.items():
                self._write(step=step, summary=scalar(tag, value), wall_time=wall_time or time.time())
            if time.monotonic() - self._flushed > FLUSHED_EVERY:
                self.flush()

    def mark(self, event: Event) -> None:
        """Write a growth event as text at its step."""
        if self._file is not None:
            from torch.utils.tensorboard.summary import text

            self._write(step=event.step, summary=text(run_folder.EVENT, str(event)))

    def hparams(self, config: dict[str, Any]) -> None:
        """Write the configuration for TensorBoard's HPARAMS tab."""
        if self._file is not None:
            from torch.utils.tensorboard.summary import hparams

            flat = {key: value for key, value in run_folder.flatten(config).items() if value is not None}
            for summary in hparams(flat, {run_folder.EVAL_LOSS: 0.0}):
                self._write(summary=summary)

    def flush(self) -> None:
        """Flush everything to the file."""
        if self._file is not None:
            with self._describe():
                self._file.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file. Disk errors are ignored: scalars up to the last checkpoint are already flushed."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with self._describe():
            self._file.write(Event(**{"wall_time": time.time(), **fields}).SerializeToString())

    @contextmanager
    def _describe(self) -> Iterator[None]:
        """Turn an OSError into a one-line PliError, and stop writing after it."""
        try:
            yield
        except OSError as error:
            self._file = None
            raise PliError(not_written(self._path, error, self._path.parent)) from None


class TensorBoardCallback(Callback):
    """Write what a run logs into its folder.

    Args:
        folder: of the run.
        config: written as hyper-parameters at the start of the run.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self._folder, self._config, self._scalars = folder, config, ScalarWriter(None)

    def on_train_begin(self, state: TrainingState, total_steps: int) -> None:
        """Open a new event file; readers drop what an earlier process wrote from this step on."""
        is_new = not state.progress.history
        self._scalars = ScalarWriter(self._folder, from_step=0 if is_new else state.step + 1)
        if is_new:
            self._scalars.hparams(self._config.model_dump())

    def on_log(self, state: TrainingState, logged: Logged) -> None:
        """Write the values."""
        step, wall_time, values = logged
        self._scalars.add(step, values, wall_time)

    def on_evaluate(self, state: TrainingState, values: dict[str, float]) -> None:
        """Write the losses."""
        self._scalars.add(state.step, values)

    def on_growth(self, state: TrainingState, event: Event) -> None:
        """Write the event as text."""
        self._scalars.mark(event)

    def on_save(self, state: TrainingState) -> None:
        """Flush, so that every checkpoint on disk has the scalars of the steps before it."""
        self._scalars.flush()

    def on_train_end(self, state: TrainingState) -> None:
        """Close the file."""
        self._scalars.close()
