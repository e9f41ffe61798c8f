"""Locate the layers of a checkpoint by its family's table, or else by the names of its tensors.

A table matches if the config has the values of its `layout` and the checkpoint has tensors of its stack. Without a
matching table only whole layers are known. One note per kind lists the tensors that are not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pli_train.core import anatomy
from pli_train.core.anatomy import Anatomy
from pli_train.core.anatomy.names import Blocks, block_lists, is_buffer, layers_of
from pli_train.core.errors import BadInput, counted, did_you_mean

PAGE = "docs/families.md"
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Config fields for the number of layers."""
FEW = 4
"""Number of tensors up to which a list of one block is taken for an output head, not a layer."""
LISTED = 3
"""Maximum number of names in a line."""


@dataclass(frozen=True)
class Layout:
    """Where a checkpoint has its layers.

    Attributes:
        anatomy: the family's table, or one that only has layers.
        notes: remarks for the reader of measurements, one line each.
    """

    anatomy: Anatomy
    notes: tuple[str, ...] = ()


def layout_of(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], stack: str | None = None) -> Layout:
    """Locate the layers.

    Args:
        config: content of `config.json`.
        shapes: full name of each tensor → its shape.
        stack: path of the list of layers to read if there are several, also below a prefix or without the first names;
            by default the list with most weights.

    Raises:
        BadInput: if there are no layers, or none at `stack`.
    """
    model_type = str(config.get("model_type"))
    table = anatomy.family(model_type) if model_type in anatomy.families() else None
    if table is None:
        reason = f"there is no family table for '{model_type}'"
    elif wrong := next((f for f, value in table.layout.items() if config.get(f) != value), None):
        reason = f"the family table of '{model_type}' is not for {wrong} = {config.get(wrong)!r}"
    else:
        selected = [each for each in _stacks(table) if stack is None or _is_path_of(stack, each.stack)]
        sized = [(each, _weight_count(each, shapes)) for each in selected]
        if any(size for _, size in sized):
            chosen = max(sized, key=lambda one: one[1])[0]
            inner = [position[2] for name in shapes if (position := chosen.locate(name))]
            chosen = chosen.naming(inner)
            return Layout(chosen, (*([chosen.note] if chosen.note else []), *_left_out(chosen, shapes)))
        reason = f"the family table of '{model_type}' names none of these tensors"
    lists = block_lists(shapes, single=stack is not None or any(config.get(name) == 1 for name in DEPTHS))
    chosen = layers_of(model_type, _selected(lists, stack))
    note = f"only whole layers are measured, at '{chosen.stack}': {reason}; {PAGE} shows how to write one"
    return Layout(chosen, (note, *_left_out(chosen, shapes)))


def _stacks(table: Anatomy) -> list[Anatomy]:
    return [table.at(stack) for stack in table.stacks] or [table]


def _is_path_of(path: str, stack: str) -> bool:
    """Return whether a path is that of a stack, perhaps below a prefix."""
    return path == stack or path.endswith(f".{stack}")


def _weight_count(table: Anatomy, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of weights in the tensors that a table names."""
    locations = {name: position[2] for name in shapes if (position := table.locate(name))}
    known = table.naming(locations.values()).tensors
    return sum(math.prod(shapes[name]) for name, inner in locations.items() if inner in known or inner in table.rows)


def _selected(lists: list[Blocks], stack: str | None) -> Blocks:
    if not lists:
        raise BadInput("no layers found: no tensor names are numbered from 0 without gaps, as `layers.0.…` are")
    if stack is None:
        return lists[0]
    exact = [one for one in lists if one.path == stack]
    near = exact or [one for one in lists if _is_path_of(one.path, stack) or _is_path_of(stack, one.path)]
    if len(near) != 1:
        paths = [one.path for one in lists]
        near_path = did_you_mean(stack, paths)
        raise BadInput(f"stack '{stack}': there are no layers{near_path} (for --stack there are: {_listed(paths)})")
    return near[0]


def _left_out(chosen: Anatomy, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield a note for each kind of tensors that are not measured."""
    locations = [
        position for name, shape in shapes.items() if not is_buffer(name, shape) and (position := chosen.locate(name))
    ]
    here = {path for path, _, _ in locations}
    # Stages of a hierarchy may have one block each; a single block of a few tensors is usually an output head.
    lists = block_lists(shapes, single=True)
    others = [one for one in lists if one.path not in here and (one.depth > 1 or len(one.names) > FEW)]
    others = [one for one in others if not any(path.startswith(f"{one.path}.") for path in here)]
    if others:
        available = _listed([f"'{one.path}' ({counted(one.depth, 'layer')})" for one in others])
        yield f"only the layers of '{min(here)}' are measured; to measure others, use --stack: {available}"
    if unknown := sorted({inner for _, _, inner in locations} - {*chosen.tensors, *chosen.rows}):
        yield f"not in the family table of '{chosen.model_type}' and not measured: {_listed(unknown)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
