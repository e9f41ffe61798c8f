"""Files of GrowthCallback beside Trainer's checkpoints: states around events, held-out tokens, scalars.

    OUTPUT_DIR/_growth/
      checkpoint-0/           the model at the start of training
      checkpoint-500-before/  the model right before the events of step 500: weights, config, lineage, no optimizer
      checkpoint-500/         the same right after them
      probe.safetensors       held-out tokens sampled from the evaluation data set
      events.out.tfevents.*   the loss on these before and after each event; numbers of layers and parameters

Trainer's rotation and `get_last_checkpoint` read `checkpoint-N` only in the output folder itself, so they ignore these.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from pli_train.checkpointing import checkpoint
from pli_train.checkpointing.snapshot import Snapshot
from pli_train.core.anatomy import families
from pli_train.core.errors import PliError, not_written
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName
from pli_train.integrations import held_out_rows
from pli_train.training.tensorboard import ScalarWriter

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
    from transformers import TrainerState

    from pli_train.growth.grower import Grower


class States:
    """The folder `_growth` of one training.

    Args:
        output: Trainer's output folder.
        most: number of newest steps with events whose states are kept; None for all.
        blocks: maximum number of held-out rows to sample.
    """

    def __init__(self, output: Path, most: int | None, blocks: int) -> None:
        self.folder, self._most, self._blocks = output / run_folder.GROWTH, most, blocks
        self._held_out: dict[str, np.ndarray] | None = None
        self._scalars = ScalarWriter(None)

    def begin(self, growing: Grower, state: TrainerState) -> None:
        """Begin or resume. Checkpoints of an earlier training after this step are removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.clear_partial(self.folder)
        step = state.global_step
        for name, path in run_folder.checkpoints(self.folder):
            # Trainer saves checkpoints before the events of their step.
            if not step or name > CheckpointName(step, after=len(growing.due(step)) == 0):
                checkpoint.remove(path)
        self._scalars = ScalarWriter(self.folder, from_step=step + 1 if step else 0)
        self._count(growing, step)
        if not step and not growing.due(step):
            self.save(growing, state, after=True)

    def save(self, growing: Grower, state: TrainerState, after: bool) -> None:
        """Write the state before or after the events of this step. Raises PliError when the disk fails."""
        name = CheckpointName(state.global_step, after)
        model: Any = growing.model
        snapshot = Snapshot.take(model, growing.anatomy, None, growing.lineage, state)
        try:
            checkpoint.put(self.folder, name, snapshot)
        except (OSError, SafetensorError) as error:
            checkpoint.clear_partial(self.folder)
            raise PliError(not_written(self.folder / str(name), error, self.folder.parent, snapshot.bytes)) from None
        if after:
            self._thin_out()

    def note(self, growing: Grower, step: int, after: bool) -> None:
        """Log the loss before or after the events of this step, if there are held-out tokens."""
        if after:
            self._count(growing, step)
        if self._held_out is not None:
            tag = run_folder.EVAL_LOSS_AFTER_EVENT if after else run_folder.EVAL_LOSS_BEFORE_EVENT
            loss = held_out_rows.loss(growing.model, growing.anatomy.task, self._held_out)
            self._scalars.add(step, {tag: loss})
        self._scalars.flush()

    def draw(self, growing: Grower, dataset: Any, tokenizer: Any, seed: int) -> None:
        """Sample held-out tokens from an evaluation data set; the same ones every time training starts."""
        if self._held_out is None and self._blocks:
            model: Any = growing.model
            task, known = growing.anatomy.task, getattr(model.config, "vocab_size", 0)
            self._held_out = held_out_rows.drawn(dataset, self._blocks, task, known, tokenizer, seed)
            if self._held_out is not None:
                checkpoint.write_tensors(self.folder / run_folder.PROBE, self._held_out)

    def close(self) -> None:
        """Close the file of scalars."""
        self._scalars.close()

    def _count(self, growing: Grower, step: int) -> None:
        model, heads = growing.model, sum(count for count, _ in growing.lineage.shapes())
        counts = {run_folder.LAYERS: len(growing.lineage.stack), run_folder.HEADS: heads}
        counts[run_folder.PARAMETERS] = sum(parameter.numel() for parameter in model.parameters())
        self._scalars.add(step, {tag: float(count) for tag, count in counts.items()})

    def _thin_out(self) -> None:
        """Remove the states of older events beyond the number to keep, but not the first state."""
        existing, most = run_folder.checkpoints(self.folder), self._most
        steps = sorted({name.step for name, _ in existing if name.step})
        for name, path in existing:
            if most is not None and name.step in steps[:-most]:
                checkpoint.remove(path)


def readable(model: nn.Module, stack: str | None) -> bool:
    """Return whether `pli-analyze` can read the saved model: a Hugging Face model of a family with a table."""
    return isinstance(model, PreTrainedModel) and model.config.model_type in families() and stack is None
