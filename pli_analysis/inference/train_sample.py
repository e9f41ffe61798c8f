"""The training blocks that `pli-train sample` drew from a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pli_analysis.inference.eval_tokens import ids_in
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from pli_analysis.runs.run import Run

ORIGIN = ("block", "document", "step")


class TrainSample(NamedTuple):
    """Blocks that a run has trained on, drawn at random.

    Attributes:
        tokens: (blocks, block_size) int64, inputs of models.
        labels: (blocks, block_size) int64, tokens to predict; −100 where nothing is predicted.
        block: (blocks,) int: the index of each block in the training text.
        document: (blocks,) int: the document in which it begins, counted from 0.
        step: (blocks,) int: the first update that used it, counted from 1.
    """

    tokens: Tensor
    labels: Tensor
    block: np.ndarray
    document: np.ndarray
    step: np.ndarray

    def to(self, device: torch.device) -> TrainSample:
        """Return the blocks with their tensors on a device: that of the model that reads them."""
        return self._replace(tokens=self.tokens.to(device), labels=self.labels.to(device))

    @property
    def content(self) -> bytes:
        """Everything that a result on these blocks depends on, as bytes for a hash."""
        return self.tokens.numpy().tobytes() + self.labels.numpy().tobytes()


def train_sample_of(run: Run) -> TrainSample:
    """Read the sample of a run's training blocks.

    Raises:
        BadInput: if there is none, or the file is not valid.
    """
    from pli_analysis.runs.safetensors_file import open_weights

    path = run.path / run_folder.TRAIN_SAMPLE
    if "config" not in run.record:
        raise BadInput(f"{run.path}: was not trained by pli-train, so its training blocks are unknown")
    if not path.is_file():
        raise BadInput(f"{run.path}: has no sample of its training blocks; run: pli-train sample {run.path}")
    with open_weights(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not _is_whole(arrays):
        raise BadInput(f"{path}: is not a valid file of training blocks; run: pli-train sample {run.path}")
    return TrainSample(*ids_in(run, path, arrays), *(arrays[name] for name in ORIGIN))


def _is_whole(arrays: dict[str, np.ndarray]) -> bool:
    """Return whether these arrays are valid blocks with their origin."""
    if arrays.keys() != {"inputs", "labels", *ORIGIN} or any(values.dtype != "int32" for values in arrays.values()):
        return False
    inputs, labels, *origin = (arrays[name] for name in ("inputs", "labels", *ORIGIN))
    if inputs.ndim != 2 or not inputs.size or inputs.shape != labels.shape:
        return False
    return all(values.shape == inputs.shape[:1] for values in origin)
