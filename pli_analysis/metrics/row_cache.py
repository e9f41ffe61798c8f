"""Cache of rows that are measured from a checkpoint on blocks of text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pli_analysis.weights.content_hash import key_of_bytes
from pli_train.core import cache

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint


def rows_of(
    folder: str, checkpoint: Checkpoint, inputs: bytes, measure: Callable[[], Iterable[tuple[Any, ...]]]
) -> list[list[Any]]:
    """Return cached rows, or measure and cache them.

    Args:
        folder: cache folder of the metric, with a number to increase when its values change: `lens-1/`.
        inputs: all that the rows depend on besides the checkpoint, as bytes for a hash: the content of a sample.
        measure: returns rows of strings, numbers and None.
    """
    key = key_of_bytes(checkpoint, inputs)
    if (found := cache.get(folder + key)) is None:
        found = json.dumps(list(measure())).encode()
        cache.put(folder + key, found)
    return list(json.loads(found))
