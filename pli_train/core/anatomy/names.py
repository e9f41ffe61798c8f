"""Find lists of numbered layers by the names of tensors.

A list of blocks is a path with tensors named `PATH.N.REST` for every N from 0 to L − 1. All blocks must share at least
one tensor name and shape; the other tensors may differ, as in hybrid models. A list within a block of another list
(experts within a layer) is not counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pli_train.core.anatomy import Anatomy

BUFFERS = re.compile(r"(^|\.)(inv_freq|masked_bias|position_ids|num_batches_tracked|relative_position_index)$")
"""Buffers that older releases saved with the weights: frequencies, positions, counters. `is_buffer` adds masks."""


@dataclass(frozen=True)
class Blocks:
    """A list of numbered blocks.

    Attributes:
        path: prefix of the names of its tensors.
        depth: number of blocks.
        numbers: number of weights in all blocks.
        names: names of the tensors within a block, of all blocks.
    """

    path: str
    depth: int
    numbers: int
    names: frozenset[str]


def block_lists(shapes: Mapping[str, tuple[int, ...]], single: bool = False) -> list[Blocks]:
    """Return the lists of blocks among the tensors of a model, the one with most weights first.

    Args:
        shapes: full name of each tensor → its shape.
        single: whether to return lists of one block even if there is a longer list.

    >>> shapes = {f"net.layers.{n}.up.weight": (8, 4) for n in range(3)} | {"net.out.0.weight": (4, 4)}
    >>> [(blocks.path, blocks.depth, blocks.numbers) for blocks in block_lists(shapes)]
    [('net.layers', 3, 96)]
    """
    numbered: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}
    for name, shape in shapes.items():
        if not is_buffer(name, shape):
            for path, index, inner in _readings(name):
                numbered.setdefault(path, {}).setdefault(index, {})[inner] = shape
    lists = {path: _blocks(path, blocks) for path, blocks in numbered.items() if _is_list(blocks)}
    if not single:
        lists = {path: blocks for path, blocks in lists.items() if blocks.depth > 1} or lists
    outer = [blocks for path, blocks in lists.items() if not any(_is_within(path, other) for other in lists)]
    return sorted(outer, key=lambda blocks: (-blocks.numbers, blocks.path))


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is a buffer, not a weight.

    >>> is_buffer("h.0.attn.bias", (1, 1, 64, 64)), is_buffer("h.0.attn.bias", (64,))
    (True, False)
    """
    return BUFFERS.search(name) is not None or (len(shape) == 4 and shape[:2] == (1, 1))


def layers_of(model_type: str, blocks: Blocks) -> Anatomy:
    """Return the anatomy of a model of which only a list of blocks is known."""
    return Anatomy(
        model_type=model_type,
        task="",
        norm="",
        stack=blocks.path,
        config={},
        tensors=dict.fromkeys(sorted(blocks.names), ("other", "")),
        grows=False,
        by_name=True,
    )


def _readings(name: str) -> Iterator[tuple[str, int, str]]:
    """Yield each way to read a name as a tensor in a numbered block: (path, index, name within the block).

    >>> list(_readings("h.0.experts.12.up"))
    [('h', 0, 'experts.12.up'), ('h.0.experts', 12, 'up')]
    """
    words = name.split(".")
    for at in range(1, len(words) - 1):
        if words[at].isascii() and words[at].isdecimal() and len(words[at]) < 8:
            yield ".".join(words[:at]), int(words[at]), ".".join(words[at + 1 :])


def _is_list(blocks: Mapping[int, Mapping[str, tuple[int, ...]]]) -> bool:
    if len(blocks) != max(blocks) + 1:
        return False
    first = set(blocks[0].items())
    return bool(first.intersection(*(block.items() for block in blocks.values())))


def _is_within(path: str, other: str) -> bool:
    """Return whether a path is inside a block of another list."""
    return path.startswith(f"{other}.") and path[len(other) + 1 :].partition(".")[0].isdecimal()


def _blocks(path: str, blocks: Mapping[int, Mapping[str, tuple[int, ...]]]) -> Blocks:
    numbers = sum(math.prod(shape) for block in blocks.values() for shape in block.values())
    return Blocks(path, len(blocks), numbers, frozenset(name for block in blocks.values() for name in block))
