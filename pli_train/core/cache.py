"""Cache results that can be recomputed, in the user's cache folder.

The folder is `$PLI_CACHE`, or else the system's default: on Linux `$XDG_CACHE_HOME/pli` or `~/.cache/pli`, on macOS
`~/Library/Caches/pli`. It can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.output import replace

if TYPE_CHECKING:
    import numpy as np

DIGEST = hashlib.sha256().digest_size
lookups: Counter[str] = Counter()
hits: Counter[str] = Counter()
"""Number of look-ups and of hits in this process, by the entry's folder."""


def root() -> Path:
    """Return the cache folder."""
    if own := os.environ.get("PLI_CACHE"):
        return Path(own)
    from platformdirs import user_cache_path

    return user_cache_path("pli", appauthor=False)


def get(name: str) -> bytes | None:
    """Return what `put` stored under a name (a path below the root); None if it is missing or damaged."""
    folder = name.partition("/")[0]
    lookups[folder] += 1
    try:
        stored = (root() / name).read_bytes()
    except OSError:
        return None
    digest, content = stored[:DIGEST], stored[DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    hits[folder] += 1
    return content


def put(name: str, content: bytes) -> None:
    """Store bytes under a name, atomically; do nothing if the folder is not writable or the disk is full."""
    path = root() / name
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = hashlib.sha256(content).digest() + content
        replace(path, lambda partial: partial.write_bytes(entry), durable=False)


def get_array(name: str, shape: tuple[int, ...], dtype: str = "<f8") -> np.ndarray | None:
    """Return the array that `put_array` stored under a name; None if it is missing or has another size.

    Args:
        name: as in `get`.
        shape: the expected shape; the first length may be -1 for any.
        dtype: the type with which it was stored.
    """
    import numpy as np

    if (content := get(name)) is None:
        return None
    # Stored without a header, because the header of a .npy file is parsed as Python.
    try:
        return np.frombuffer(content, dtype).reshape(shape)
    except ValueError:
        return None


def put_array(name: str, array: np.ndarray, dtype: str = "<f8") -> None:
    """Store the numbers of an array under a name, as `put` does, without its shape."""
    put(name, array.astype(dtype).tobytes())
