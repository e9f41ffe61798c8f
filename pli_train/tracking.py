"""Scalars to TensorBoard: the run's only store of them."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pli_train import run_folder
from pli_train.errors import PliError, not_written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pli_train.lineage import Event


class Scalars:
    """Writes a run's scalars into its folder, or nowhere. All but `close` raise PliError when the disk fails.

    Args:
        folder: the run folder; None writes nothing (another rank writes, or tracking is off).
        from_step: the first step to be written; readers drop what an earlier process wrote from there on.
    """

    def __init__(self, folder: Path | None, from_step: int = 0) -> None:
        self._writer, self._folder = None, folder
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=from_step)

    def add(self, step: int, values: dict[str, float], wall_time: float | None = None) -> None:
        """Note scalars at `step` (updates done), as of `wall_time` in seconds since 1970, or now."""
        if self._writer is not None:
            with self._failing():
                for tag, value in values.items():
                    self._writer.add_scalar(tag, value, step, walltime=wall_time or time.time())

    def mark(self, event: Event) -> None:
        """Note a growth event, as text at its step."""
        if self._writer is not None:
            self._writer.add_text(run_folder.EVENT, str(event), event.step)

    def hparams(self, config: dict[str, Any]) -> None:
        """Note the configuration where TensorBoard's HPARAMS tab looks for it."""
        if self._writer is not None:
            from torch.utils.tensorboard.summary import hparams

            flat = {key: value for key, value in run_folder.flatten(config).items() if value is not None}
            writer = self._writer._get_file_writer()
            for summary in hparams(flat, {run_folder.EVAL_LOSS: 0.0}):
                writer.add_summary(summary)

    def flush(self) -> None:
        """Return once everything noted is in the file."""
        if self._writer is not None:
            with self._failing():
                self._writer.flush()

    def close(self) -> None:
        """Let go of the file. What belongs to a checkpoint was flushed before it, so a disk may fail now."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            assert self._folder is not None
            raise PliError(not_written(self._folder / run_folder.SCALARS, error, self._folder)) from None
