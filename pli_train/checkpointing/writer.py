"""Write checkpoints in a background thread and remove old ones."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from pli_train.checkpointing import checkpoint
from pli_train.checkpointing.snapshot import Buffers, Snapshot
from pli_train.core.errors import PliError, not_written
from pli_train.core.output import sync
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.faults import boundary

if TYPE_CHECKING:
    from torch.optim import AdamW
    from transformers import PreTrainedModel, TrainerState

    from pli_train.checkpointing.retention import Retention
    from pli_train.core.anatomy import Anatomy
    from pli_train.core.lineage import Lineage


class Writer:
    """Write a run's checkpoints one at a time; errors are raised by the next `save` or `wait`.

    Args:
        run: the run folder.
        retention: which older checkpoints to keep when a newer one is synced to disk.
    """

    def __init__(self, run: Path, retention: Retention) -> None:
        self.run, self.retention = run, retention
        self._buffers = Buffers()
        self._thread: Thread | None = None
        self._failure: BaseException | None = None

    def open(self, lineage: Lineage, at: run_folder.CheckpointName | None) -> None:
        """Clean up after a process that may have been killed. The run resumes from checkpoint `at`, if any."""
        checkpoint.clear_partial(self.run)
        if at is not None:
            _keep_lineage(self.run, lineage.to_json())
            thin_out(self.run, self.retention, at)

    def save(
        self,
        name: run_folder.CheckpointName,
        model: PreTrainedModel,
        anatomy: Anatomy,
        optimizer: AdamW,
        lineage: Lineage,
        trainer_state: TrainerState,
    ) -> None:
        """Wait for the previous checkpoint, copy the state and return; a thread writes the checkpoint.

        Raises:
            PliError: when the previous checkpoint could not be written.
        """
        self.wait()
        snapshot = Snapshot.take(model, anatomy, optimizer, lineage, trainer_state, self._buffers)
        self._thread = Thread(target=self._work, args=(name, snapshot), name=f"write {name}")
        self._thread.start()

    def wait(self) -> None:
        """Wait until all checkpoints are synced to disk.

        Raises:
            PliError: when one could not be written.
        """
        self.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def join(self) -> None:
        """Wait for the thread without raising its error, for use when another error is being handled."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self, name: run_folder.CheckpointName, snapshot: Snapshot) -> None:
        try:
            self._write(name, snapshot)
        except (OSError, SafetensorError) as error:
            checkpoint.clear_partial(self.run)
            self._failure = PliError(not_written(self.run / str(name), error, self.run, snapshot.bytes))
        except BaseException as error:  # raised again in the loop by `wait`
            self._failure = error

    def _write(self, name: run_folder.CheckpointName, snapshot: Snapshot) -> None:
        if not snapshot.finite():
            raise PliError(
                f"the weights of step {name.step} are no longer finite numbers; the checkpoints of earlier steps are "
                "kept. A lower optim.lr or a longer optim.warmup_ratio may help"
            )
        for scalars in self.run.glob(run_folder.SCALARS):
            sync(scalars)
        boundary("scalars-synced")
        checkpoint.put(self.run, name, snapshot)
        _keep_lineage(self.run, snapshot.lineage)
        thin_out(self.run, self.retention, name)


def thin_out(run: Path, retention: Retention, newest: run_folder.CheckpointName) -> None:
    """Apply the retention policy after `newest` was written: remove checkpoints, or only their optimizer state."""
    names = [name for name, _ in run_folder.checkpoints(run) if name <= newest]
    kept = retention.kept(names)
    full = retention.full(kept)
    for name in names:
        if name not in kept:
            checkpoint.remove(run / str(name))
        elif name not in full:
            checkpoint.lighten(run / str(name))


def _keep_lineage(run: Path, text: str) -> None:
    boundary("run-lineage-begin")
    checkpoint.write_text(run / run_folder.LINEAGE, text, part="run-lineage")
    boundary("run-lineage-replaced")
