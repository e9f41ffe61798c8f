"""The device that models run on, and float64 on devices that do not have it.

One device serves the whole process, as the numbers of two runs are compared only if they come from one device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from pli_train.core.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
NAMES: tuple[DeviceName, ...] = get_args(DeviceName)
_chosen: DeviceName = "auto"


def use_device(name: DeviceName) -> None:
    """Choose the device on which models are evaluated from now on, in this process.

    Results do not name the device: cached ones are used on any device, as float32 differs between devices only by
    rounding.

    Args:
        name: `auto`: a GPU if PyTorch can use one (CUDA before MPS), else the CPU; or `cpu`, `cuda` or `mps`.

    Raises:
        BadInput: if the name is unknown, or PyTorch cannot use the device.
    """
    global _chosen
    if name not in NAMES:
        raise BadInput(f"device {name}: is none of {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    if name in ("cuda", "mps") and not _is_available(name):
        raise BadInput(f"device {name}: PyTorch finds none on this machine; use auto or cpu")
    _chosen = name


def device() -> torch.device:
    """Return the device that models are moved to."""
    import torch

    if _chosen != "auto":
        return torch.device(_chosen)
    return torch.device(next((name for name in ("cuda", "mps") if _is_available(name)), "cpu"))


def double(values: Tensor) -> Tensor:
    """Return values in float64, on their device; on the CPU if they are on MPS, which has no float64."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _is_available(name: str) -> bool:
    """Return whether PyTorch can use a device of this type."""
    import torch

    return torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()
