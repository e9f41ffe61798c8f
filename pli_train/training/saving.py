"""Save checkpoints during a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.checkpointing.writer import Writer
from pli_train.core.run_format.run_folder import CheckpointName

if TYPE_CHECKING:
    from accelerate import Accelerator

    from pli_train.checkpointing.lock import Lock
    from pli_train.training.run_plan import RunPlan
    from pli_train.training.state import TrainingState


class Saver:
    """Save a run's checkpoints, in its main process only.

    Args:
        plan: of the run.
        folder: of the run.
        accelerator: of the run.
        lock: lock of the folder, released by `close`.
        resumed_from: the checkpoint that the run resumed from.

    Attributes:
        folder: of the run.
    """

    def __init__(
        self,
        plan: RunPlan,
        folder: Path,
        accelerator: Accelerator,
        lock: Lock | None = None,
        resumed_from: CheckpointName | None = None,
    ) -> None:
        self.folder = folder
        self._plan, self._accelerator, self._lock, self._resumed_from = plan, accelerator, lock, resumed_from
        self._writer = Writer(folder, plan.retention)

    def open(self, state: TrainingState) -> None:
        """Remove incomplete files of a killed process."""
        if self._accelerator.is_main_process:
            self._writer.open(state.lineage, self._resumed_from)
        self._accelerator.wait_for_everyone()

    def save(self, state: TrainingState, after: bool = True) -> Path:
        """Copy the state to memory; a thread writes it to disk.

        Args:
            state: of the run.
            after: whether this is the state after the growth events of this step.

        Returns:
            The checkpoint's folder, which exists once `wait` has returned.

        Raises:
            PliError: when the previous checkpoint could not be written.
        """
        name = CheckpointName(state.step, after)
        # Right after a resume the checkpoint exists; to write it again would remove it for a moment.
        exists, self._resumed_from = name == self._resumed_from, None
        if self._accelerator.is_main_process and not exists:
            plan = self._plan
            trainer_state = state.progress.to_trainer_state(plan.config, plan.total_steps, plan.epochs_per_step)
            model = state.model.bare
            self._writer.save(name, model, state.anatomy, state.optimizer, state.lineage, trainer_state)
        self._accelerator.wait_for_everyone()
        return self.folder / str(name)

    def wait(self) -> None:
        """Wait until all checkpoints are on disk. Raises PliError when one could not be written."""
        self._writer.wait()

    def close(self) -> None:
        """Wait for the thread and release the lock. Raises nothing, so that it hides no earlier error."""
        self._writer.join()
        if self._lock is not None:
            self._lock.release()
