"""Where a checkpoint has its layers: by its family's table, or else by the names of its tensors.

A table fits when the config's `layout` is the one it is written for, and the tensors of its stack are there. Without
one only layers are told apart. What is there and not measured is said, a line for each kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pli_train.core import anatomy
from pli_train.core.anatomy import Anatomy
from pli_train.core.anatomy.names import Blocks, block_lists, is_buffer, layers_of
from pli_train.core.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    pass

PAGE = "docs/families.md"
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configs call the number of layers."""
FEW = 4
LISTED = 3
"""Names in a line, at most."""


@dataclass(frozen=True)
class Layout:
    """Where a checkpoint has its layers.

    Attributes:
        anatomy: the table, or the layers alone.
        notes: what whoever reads measures should know, a line each.
    """

    anatomy: Anatomy
    notes: tuple[str, ...] = ()


def layout_of(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], stack: str | None = None) -> Layout:
    """Where the layers are.

    Args:
        config: what is in `config.json`.
        shapes: full name of each tensor → its shape.
        stack: path of the list of blocks to take, where there are several; the one with most weights if None.

    Raises:
        BadInput: when there are no layers, or none at `stack`.
    """
    model_type = str(config.get("model_type"))
    table = anatomy.family(model_type) if model_type in anatomy.families() else None
    if table is None:
        flaw = f"no table says where a {model_type} has heads, FFNs and norms"
    elif wrong := next((f for f, value in table.layout.items() if config.get(f) != value), None):
        flaw = f"a {model_type} with {wrong} = {config.get(wrong)!r} is laid out otherwise than its table says"
    else:
        fitting = [found for found in _stacks(table) if stack is None or _ends(stack, found.stack)]
        sized = [(found, _numbers(found, shapes)) for found in fitting]
        if any(size for _, size in sized):
            taken = max(sized, key=lambda one: one[1])[0]
            inner = [position[2] for name in shapes if (position := taken.locate(name))]
            taken = taken.naming(inner)
            return Layout(taken, (*([taken.note] if taken.note else []), *_left_out(taken, shapes)))
        flaw = f"the table of a {model_type} does not name the tensors there"
    lists = block_lists(shapes, single=stack is not None or any(config.get(name) == 1 for name in DEPTHS))
    taken = layers_of(model_type, _taken(lists, stack))
    message = f"layers only, at '{taken.stack}': {flaw}; {PAGE} says how to write one"
    return Layout(taken, (message, *_left_out(taken, shapes)))


def _stacks(table: Anatomy) -> list[Anatomy]:
    return [table.at(stack) for stack in table.stacks] or [table]


def _ends(path: str, stack: str) -> bool:
    return path == stack or path.endswith(f".{stack}")


def _numbers(table: Anatomy, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many weights a table's stack has of those that it names."""
    locations = {name: position[2] for name in shapes if (position := table.locate(name))}
    known = table.naming(locations.values()).tensors
    return sum(math.prod(shapes[name]) for name, inner in locations.items() if inner in known or inner in table.rows)


def _taken(lists: list[Blocks], stack: str | None) -> Blocks:
    if not lists:
        raise BadInput("its weights have no layers: no tensors are numbered from 0 without a gap, block by block")
    if stack is None:
        return lists[0]
    found = next((one for one in lists if one.path == stack), None)
    if found is None:
        paths = [one.path for one in lists]
        raise BadInput(
            f"--stack {stack}: no layers are there{did_you_mean(stack, paths)} (there are: {_listed(paths)})"
        )
    return found


def _left_out(taken: Anatomy, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """What is there and not measured."""
    locations = [
        position for name, shape in shapes.items() if not is_buffer(name, shape) and (position := taken.locate(name))
    ]
    here = {path for path, _, _ in locations}
    # Stages of a hierarchy may have one block each; a lone block of a few tensors is mostly a head.
    lists = block_lists(shapes, single=True)
    others = [one for one in lists if one.path not in here and (one.depth > 1 or len(one.names) > FEW)]
    others = [one for one in others if not any(path.startswith(f"{one.path}.") for path in here)]
    if others:
        message = _listed([f"'{one.path}' ({one.depth})" for one in others])
        yield f"layers are those of '{min(here)}'; not among them, and there with --stack: {message}"
    if unknown := sorted({inner for _, _, inner in locations} - {*taken.tensors, *taken.rows}):
        yield f"not in the table of a {taken.model_type}, and left out: {_listed(unknown)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
