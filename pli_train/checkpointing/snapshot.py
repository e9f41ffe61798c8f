"""Copy the state of a run to memory, so that training continues while a thread writes it."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from pli_train.core.run_format import run_folder
from pli_train.models import padding
from pli_train.optim import optimizer as optimizers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from torch.optim import AdamW
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, TrainerState

    from pli_train.core.anatomy import Anatomy
    from pli_train.core.lineage import Lineage

SHARD = "50GB"
"""Maximum size of a weight file; larger models are split as transformers does."""

File = tuple[str, str, "Callable[[Path], object]"]
"""Name of the part for fault tests, file name, and function that writes the file."""


class Buffers:
    """Memory that every snapshot reuses: a copy is valid until the next one is made."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return contiguous copies on the CPU. Buffers of other names are freed."""
        self._held = {name: self._fitting(name, tensor) for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            self._held[name].copy_(tensor.detach(), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()
        return dict(self._held)

    def _fitting(self, name: str, tensor: Tensor) -> Tensor:
        held = self._held.get(name)
        if held is not None and held.shape == tensor.shape and held.dtype == tensor.dtype:
            return held
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)


@dataclass(frozen=True)
class Snapshot:
    """Everything in a checkpoint, independent of the model and the optimizer in training.

    `optimizer` is None in a snapshot for analysis, from which training cannot resume.
    """

    config: PretrainedConfig
    generation: GenerationConfig | None
    parameters: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None
    lineage: str
    trainer_state: TrainerState

    @classmethod
    def take(
        cls,
        model: PreTrainedModel,
        anatomy: Anatomy,
        optimizer: AdamW | None,
        lineage: Lineage,
        trainer_state: TrainerState,
        buffers: Buffers | None = None,
    ) -> Snapshot:
        """Copy a run's state, into `buffers` if given: then the previous snapshot becomes invalid."""
        weights = _without_ties(padding.padded(model, anatomy), model)
        state = {} if optimizer is None else optimizers.state_tensors(optimizer, model, anatomy, lineage.stack)
        held = (buffers or Buffers()).copy({**weights, **{_STATE + name: tensor for name, tensor in state.items()}})
        config = deepcopy(model.config)
        config.dtype = str(model.dtype).removeprefix("torch.")
        config.architectures = [type(model).__name__]
        return cls(
            config,
            deepcopy(model.generation_config) if model.can_generate() else None,
            model.num_parameters(),
            {name: held[name] for name in weights},
            None if optimizer is None else {name: held[_STATE + name] for name in state},
            lineage.to_json(),
            trainer_state,
        )

    @property
    def bytes(self) -> int:
        """Size of the tensors in memory and on disk."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def finite(self) -> bool:
        """Return whether all weights and moments are finite."""
        tensors = (tensor for tensor in self._tensors() if tensor.is_floating_point())
        return all(math.isfinite(bound) for tensor in tensors if tensor.numel() for bound in torch.aminmax(tensor))

    def files(self) -> Iterator[File]:
        """Yield the files of a checkpoint in the order of writing, byte-identical to those of `save_pretrained`."""
        yield "config", run_folder.CONFIG, lambda path: self.config.save_pretrained(path.parent)
        if self.generation is not None:
            generation = self.generation
            yield "config", "generation_config.json", lambda path: generation.save_pretrained(path.parent)
        yield from self._shards()
        yield "lineage", run_folder.LINEAGE, lambda path: path.write_text(self.lineage, encoding="utf-8")
        yield "state", run_folder.TRAINER_STATE, lambda path: self.trainer_state.save_to_json(str(path))
        if (moments := self.optimizer) is not None:
            yield "optimizer", run_folder.OPTIMIZER, lambda path: save_file(moments, path)

    def _tensors(self) -> Iterator[Tensor]:
        return chain(self.weights.values(), (self.optimizer or {}).values())

    def _shards(self) -> Iterator[File]:
        pattern = run_folder.WEIGHTS.replace(".safetensors", "{suffix}.safetensors")
        split = split_torch_state_dict_into_shards(self.weights, filename_pattern=pattern, max_shard_size=SHARD)
        for name, members in split.filename_to_tensors.items():
            part = {member: self.weights[member] for member in members}
            yield "weights", name, partial(save_file, part, metadata={"format": "pt"})
        if split.is_sharded:
            metadata = {"total_parameters": self.parameters, **split.metadata}
            index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
            text = json.dumps(index, indent=2, sort_keys=True) + "\n"
            yield "weights", run_folder.WEIGHTS_INDEX, lambda path: path.write_text(text, encoding="utf-8")


_STATE = "optimizer state of "


def _without_ties(state: dict[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Keep one name for each tied tensor, the one that transformers loads."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    return remove_tied_weights_from_state_dict({k: v for k, v in state.items() if k not in ignored}, model)
