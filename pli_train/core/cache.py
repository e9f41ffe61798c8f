"""Cache of results that can be computed again, in the user's cache folder.

The folder is `$PLI_CACHE`, else the system's own: on Linux `$XDG_CACHE_HOME/pli` or `~/.cache/pli`, on macOS
`~/Library/Caches/pli`. It may be removed at any time.
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
asked: Counter[str] = Counter()
there: Counter[str] = Counter()
"""How often something was looked for in this process, and found, by the folder it is kept in."""


def root() -> Path:
    """Where caches live."""
    if own := os.environ.get("PLI_CACHE"):
        return Path(own)
    from platformdirs import user_cache_path

    return user_cache_path("pli", appauthor=False)


def get(name: str) -> bytes | None:
    """What `put` kept under a name, a path below the root; None when it is not there, or no longer whole."""
    folder = name.partition("/")[0]
    asked[folder] += 1
    try:
        kept = (root() / name).read_bytes()
    except OSError:
        return None
    digest, content = kept[:DIGEST], kept[DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        return None
    there[folder] += 1
    return content


def put(name: str, content: bytes) -> None:
    """Keep some bytes under a name: whole or not at all, and not where the disk is full or may not be written to."""
    path = root() / name
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = hashlib.sha256(content).digest() + content
        replace(path, lambda partial: partial.write_bytes(kept), durable=False)


def get_array(name: str, shape: tuple[int, ...], dtype: str = "<f8") -> np.ndarray | None:
    """What `put_array` kept under a name; None when it is not there, or of another shape.

    Args:
        name: as in `get`.
        shape: what is expected; the first length may be -1 for any.
        dtype: as it was kept.
    """
    import numpy as np

    if (content := get(name)) is None:
        return None
    # Bare numbers: numpy's own files have a header that is parsed as Python.
    try:
        return np.frombuffer(content, dtype).reshape(shape)
    except ValueError:
        return None


def put_array(name: str, array: np.ndarray, dtype: str = "<f8") -> None:
    """Keep the numbers of an array under a name, as `put` does; its shape is not kept."""
    put(name, array.astype(dtype).tobytes())
