"""Choose device and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from pli_train.models import kernels
from pli_train.training import allocator

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig


def make_accelerator(config: RunConfig) -> Accelerator:
    """Choose device and precision: bf16 on a GPU unless `train.precision` says otherwise."""
    wanted = config.train.precision
    bf16 = wanted == "bf16" or (wanted == "auto" and torch.cuda.is_available())
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    if accelerator.device.type == "cpu":
        allocator.keep()
    if config.train.compile:
        kernels.require_compiler(accelerator.device)
    return accelerator
