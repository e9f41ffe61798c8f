"""Open safetensors files safely: names, locations and contents of their tensors."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pli_analysis.runs.tensor_location import TYPES, TensorLocation, View
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

LFS = b"version https://git-lfs"
"""How a file begins that Git LFS left in place of the one it stands for."""


def open_weights(path: Path) -> Any:
    """A safetensors file, its header checked by the library. Raises BadInput when it is none, or a link."""
    import ml_dtypes  # noqa: F401  teaches numpy what bfloat16 is
    from safetensors import SafetensorError, safe_open

    if run_folder.leads_out(path):
        raise BadInput(f"{path}: is a link, which may lead out of the run")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: {_instead(path) or f'not readable as safetensors ({error})'}") from None


def _instead(path: Path) -> str | None:
    """What a file is that is no safetensors file, where its first bytes tell and there is something to be done."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begins = file.read(len(LFS))
            if not begins:
                return "is empty"
            if begins == LFS:
                return "is a pointer of Git LFS, not the file itself: `git lfs pull` gets it"
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < min(size, run_folder.LARGEST_TEXT) else {}
        ends = [message["data_offsets"][1] for name, message in header.items() if name != "__metadata__"]
        due = 8 + length + max(ends, default=size)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if ends and due > size:
        return f"has {size} bytes of {due}: it was cut short"
    return f"has {size - due} bytes more than its header states" if ends and due < size else None


def locations_of(path: Path) -> dict[str, TensorLocation]:
    """Where each tensor of a safetensors file lies. The library checks the file first."""
    with open_weights(path):
        pass
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            laid = _laid_out(file.read(size))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BadInput(f"{path}: not readable as safetensors ({error})") from None
    return {name: TensorLocation(path, 8 + size + offset, type, shape) for name, (offset, type, shape) in laid.items()}


@lru_cache(maxsize=8)
def _laid_out(header: bytes) -> dict[str, tuple[int, str, tuple[int, ...]]]:
    """A header as name → (offset, type, shape). Checkpoints of one shape have one header, and share this."""
    table = json.loads(header)
    table.pop("__metadata__", None)
    return {
        name: (message["data_offsets"][0], message["dtype"], tuple(message["shape"])) for name, message in table.items()
    }


def names_in(path: Path) -> list[str]:
    """Return the names of the tensors in a file. Raises BadInput when it cannot be read."""
    with open_weights(path) as file:
        return list(file.keys())


def read_tensor(file: Any, name: str, path: Path) -> np.ndarray:
    """Read a whole tensor from an open file. Raises BadInput when it cannot be read."""
    from safetensors import SafetensorError

    try:
        return file.get_tensor(name) if _is_known(file.get_slice(name)) else locations_of(path)[name].read()
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: tensor '{name}' cannot be read ({error})") from None


def slice_of(file: Any, name: str, path: Path) -> Any:
    """A look at a tensor. Types that the library knows and numpy does not are read by place."""
    found = file.get_slice(name)
    return found if _is_known(found) else View(locations_of(path)[name])


def _is_known(tensor: Any) -> bool:
    """Whether the library gives its numbers to numpy."""
    return tensor.get_dtype() in ("BF16", *TYPES)


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor that is only read as far as it is asked for."""

    whole: Any
    rows: slice

    def get_shape(self) -> list[int]:
        """Of these rows."""
        return [self.rows.stop - self.rows.start, *self.whole.get_shape()[1:]]

    def __getitem__(self, asked: Any) -> np.ndarray:
        first, *others = asked if isinstance(asked, tuple) else (asked,)
        start, stop, _ = first.indices(self.rows.stop - self.rows.start)
        return self.whole[(slice(self.rows.start + start, self.rows.start + stop), *others)]
