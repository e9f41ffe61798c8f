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
"""First bytes of the pointer that Git LFS leaves in place of a file."""


def open_weights(path: Path) -> Any:
    """Open a safetensors file; the library checks its header. Raises BadInput if it is a link or no safetensors."""
    import ml_dtypes  # noqa: F401  registers bfloat16 with numpy
    from safetensors import SafetensorError, safe_open

    if run_folder.leads_out(path):
        raise BadInput(f"{path}: is a link, which is not followed; replace it by the file")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: {_explain(path) or f'not readable as safetensors ({error})'}") from None


def _explain(path: Path) -> str | None:
    """Explain why a file is no safetensors file if its size and first bytes show it: empty, LFS pointer, truncated."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(len(LFS))
            if not first:
                return "is empty"
            if first == LFS:
                return "is a Git LFS pointer, not the file itself; get the file with `git lfs pull`"
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length < min(size, run_folder.LARGEST_TEXT) else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=size)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if ends and expected > size:
        return f"is truncated ({size} of {expected} bytes)"
    return f"has {size - expected} bytes more than its header states" if ends and expected < size else None


def locations_of(path: Path) -> dict[str, TensorLocation]:
    """Return tensor name → location in a safetensors file. The library checks the file first."""
    with open_weights(path):
        pass
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            entries = _header_entries(file.read(size))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BadInput(f"{path}: not readable as safetensors ({error})") from None
    return {
        name: TensorLocation(path, 8 + size + offset, type, shape) for name, (offset, type, shape) in entries.items()
    }


@lru_cache(maxsize=8)
def _header_entries(header: bytes) -> dict[str, tuple[int, str, tuple[int, ...]]]:
    """Parse a header to name → (offset, type, shape). Cached, as checkpoints of one run have equal headers."""
    table = json.loads(header)
    table.pop("__metadata__", None)
    return {name: (entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"])) for name, entry in table.items()}


def names_in(path: Path) -> list[str]:
    """Return the names of the tensors in a file. Raises BadInput if it cannot be read."""
    with open_weights(path) as file:
        return list(file.keys())


def read_tensor(file: Any, name: str, path: Path) -> np.ndarray:
    """Read a whole tensor from an open file. Raises BadInput if it cannot be read."""
    from safetensors import SafetensorError

    try:
        return file.get_tensor(name) if _is_known(file.get_slice(name)) else locations_of(path)[name].read()
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: tensor '{name}' cannot be read ({error})") from None


def slice_of(file: Any, name: str, path: Path) -> Any:
    """Return a lazy slice of a tensor. A type that the library does not return to numpy is read by its location."""
    tensor = file.get_slice(name)
    return tensor if _is_known(tensor) else View(locations_of(path)[name])


def _is_known(tensor: Any) -> bool:
    """Return whether the library returns the tensor's type to numpy."""
    return tensor.get_dtype() in ("BF16", *TYPES)


@dataclass(frozen=True)
class Rows:
    """A range of rows of a lazy slice; only the selected part is read."""

    whole: Any
    rows: slice

    def get_shape(self) -> list[int]:
        """Return the shape of these rows."""
        return [self.rows.stop - self.rows.start, *self.whole.get_shape()[1:]]

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *others = key if isinstance(key, tuple) else (key,)
        start, stop, _ = first.indices(self.rows.stop - self.rows.start)
        return self.whole[(slice(self.rows.start + start, self.rows.start + stop), *others)]
