"""Remove heads from a model, and write it as a folder that plain transformers loads.

The config of a family has one number of heads and of K/V groups for all layers, and in most families heads × head size
must be the width of the model. Heads are removed from the weights as far as the config can say so; the others are set
to zero. Either way, the outputs are those of the model with these heads masked.
"""

from __future__ import annotations

import copy
import math
import stat
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pli_analysis.inference.checkpoint_model import model_of, path_of_stack, stack_of
from pli_train.core import output, safe_model, tokenizer
from pli_train.core.anatomy.axes import NOTHING, factors, take
from pli_train.core.errors import BadInput, counted
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_train.core.anatomy import Anatomy
    from pli_train.core.lineage import Lineage

EVENT = "prune"
"""Name of the event in the lineage of a pruned model."""


class Slots(NamedTuple):
    """Which head and which K/V group of the model is at each place of a pruned layer; NOTHING for zeros."""

    heads: list[int]
    groups: list[int]


class Pruned(NamedTuple):
    """A model without some of its heads.

    Attributes:
        model: the model, in float32 on the CPU.
        slots: places of the heads in each layer, bottom to top.
        is_smaller: whether the config has fewer heads than before.
        summary: number of heads removed and set to zero, in a line.
    """

    model: PreTrainedModel
    slots: list[Slots]
    is_smaller: bool
    summary: str


def export(checkpoint: Checkpoint, heads: Collection[str], tokenizer_path: Path, final: Path) -> Pruned:
    """Write a checkpoint's model without some heads as a model folder, atomically.

    The folder has the lineage of the checkpoint, if that has a `lineage.json`, with an event `prune`. If heads were
    removed from the weights, the lineage records no heads, as those of a layer are numbered without gaps; the event
    then has the id of the head in each slot.

    Args:
        checkpoint: the checkpoint.
        heads: ids of the heads to remove, such as `a.h1`.
        tokenizer_path: folder of the tokenizer, which is copied without links.
        final: the folder to make.

    Raises:
        BadInput: if the folder exists, or the checkpoint makes no model or has no such head.
        PliError: if the disk is full or fails.
    """
    if final.exists() or final.is_symlink():
        raise BadInput(f"{final}: already exists; name another folder, or remove it first")
    pruned = without_heads(checkpoint, heads)
    model: Any = pruned.model
    model.to(dtype=_stored_type(checkpoint))
    try:
        with output.folder(final) as partial:
            model.save_pretrained(partial)
            for path in tokenizer.files_of(tokenizer_path):
                if not path.is_symlink():  # a link may lead out of the run
                    (partial / path.name).write_bytes(path.read_bytes())
            if (checkpoint.path / run_folder.LINEAGE).is_file():
                lineage = _lineage(checkpoint, heads, pruned)
                (partial / run_folder.LINEAGE).write_text(lineage.to_json(), encoding="utf-8")
            _make_readable(partial)
    except OSError as error:
        raise output.refusal(final, error) from None
    return pruned


def without_heads(checkpoint: Checkpoint, heads: Collection[str]) -> Pruned:
    """Return the model of a checkpoint without some heads.

    Args:
        checkpoint: the checkpoint.
        heads: ids of the heads to remove.

    Raises:
        BadInput: if the checkpoint makes no model, or has no such head.
    """
    model, anatomy = model_of(checkpoint), checkpoint.anatomy
    sizes = anatomy.sizes(checkpoint.config)
    kept = _kept(checkpoint, heads, sizes["member"])
    shape = _smallest(anatomy, checkpoint.config, kept) if _is_removable(anatomy) else None
    slots = [_in_place(layer, sizes) if shape is None else _placed(layer, *shape) for layer in kept]
    tensors = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    for index, name, axes in _tensors_of_heads(model, anatomy, whole=shape is not None):
        tensors[name] = _selected(tensors[name], axes, sizes, slots[index])
    config = copy.deepcopy(model.config)
    if shape is not None:
        names = anatomy.config
        setattr(config, names["head_dim"], _width_of_head(model, anatomy, sizes))
        setattr(config, names["heads"], math.prod(shape))
        if "groups" in names:
            setattr(config, names["groups"], shape[0])
    outline = safe_model.outline(config, safe_model.AUTO_CLASS[anatomy.task], tensors)
    made, _ = safe_model.fill(outline, config, tensors, attn_implementation="eager")
    return Pruned(made.eval(), slots, shape is not None, _summary(checkpoint, heads, slots, shape))


def _kept(checkpoint: Checkpoint, heads: Collection[str], member: int) -> list[list[list[int]]]:
    """Return the numbers of the heads that stay in each K/V group of each layer. Raises BadInput for unknown heads."""
    counts = zip(checkpoint.lineage.stack, checkpoint.heads, strict=True)
    names = [[f"{id}.h{number}" for number in range(count)] for id, count in counts]
    if unknown := sorted(set(heads) - {name for layer in names for name in layer}):
        raise BadInput(f"{checkpoint.path}: has no head {unknown[0]}")
    return [
        [
            [head for head in range(start, min(start + member, len(layer))) if layer[head] not in heads]
            for start in range(0, len(layer), member)
        ]
        for layer in names
    ]


def _is_removable(anatomy: Anatomy) -> bool:
    """Return whether a config can have fewer heads of the same size, and heads do not affect each other."""
    norms = {factor for kind, axes in anatomy.tensors.values() if kind == "norms" for factor in factors(axes)}
    return "head_dim" in anatomy.config and not anatomy.rows and not norms & {"head", "group"}


def _smallest(anatomy: Anatomy, config: dict[str, object], kept: list[list[list[int]]]) -> tuple[int, int] | None:
    """Return the numbers of groups and of heads per group with the fewest weights that hold all kept heads.

    None if no head can be removed: the config may need a number of heads that divides the width.
    """
    sizes, width = anatomy.sizes(config), config.get(anatomy.config["hidden"])
    groups = max(1, *(sum(map(bool, layer)) for layer in kept))
    members = max(1, *(len(group) for layer in kept for group in layer))
    shapes = [
        (number, size)
        for number in range(groups, sizes["group"] + 1)
        for size in range(members, sizes["member"] + 1)
        if not anatomy.heads_divide_width or (isinstance(width, int) and width % (number * size) == 0)
    ]
    # Q and O have a block of weights for each head, K and V for each group.
    best = min(shapes, key=lambda shape: (shape[0] * (1 + shape[1]), shape))
    return best if math.prod(best) < sizes["head"] else None


def _placed(layer: list[list[int]], groups: int, members: int) -> Slots:
    """Return the places of kept heads in a layer of `groups` groups of `members` heads, each in its own group."""
    numbers = [number for number, group in enumerate(layer) if group]
    numbers += [NOTHING] * (groups - len(numbers))
    kept = [[] if number == NOTHING else layer[number] for number in numbers]
    return Slots([head for group in kept for head in (group + [NOTHING] * members)[:members]], numbers)


def _in_place(layer: list[list[int]], sizes: dict[str, int]) -> Slots:
    """Return the places of kept heads in a layer whose shape does not change."""
    kept = {head for group in layer for head in group}
    return Slots([n if n in kept else NOTHING for n in range(sizes["head"])], list(range(sizes["group"])))


def _tensors_of_heads(model: PreTrainedModel, anatomy: Anatomy, whole: bool) -> Iterator[tuple[int, str, str]]:
    """Yield layer index, name and axes of the tensors to change: all of the heads, or only what reads their outputs.

    The others must not be set to zero, as some families normalize queries and keys over all heads.
    """
    path, read_by = path_of_stack(model, anatomy), f"{anatomy.identity['zero'][0]}.weight"
    for index, layer in enumerate(stack_of(model, anatomy)):
        for name, _ in layer.named_parameters():
            _, axes = anatomy.tensors.get(name, ("other", ""))
            if {"head", "group"} & {*factors(axes)} and (whole or name == read_by):
                yield index, f"{path}.{index}.{name}", axes


def _selected(tensor: Tensor, axes: str, sizes: dict[str, int], slots: Slots) -> Tensor:
    """Return a tensor with the heads, or the K/V groups, at these places."""
    if "member" in factors(axes):  # the heads of all groups, one after the other
        axes, factor, sources = axes.replace("group member", "head"), "head", slots.heads
    else:
        factor, sources = ("group", slots.groups) if "group" in factors(axes) else ("head", slots.heads)
    return take(tensor, axes, factor, sizes, sources).contiguous()


def _width_of_head(model: PreTrainedModel, anatomy: Anatomy, sizes: dict[str, int]) -> int:
    """Return the number of dimensions of a head."""
    width = getattr(model.config, anatomy.config["head_dim"], None)
    return width or int(getattr(model.config, anatomy.config["hidden"]) // sizes["head"])


def _summary(checkpoint: Checkpoint, heads: Collection[str], slots: list[Slots], shape: tuple[int, int] | None) -> str:
    """Return how many heads were removed and set to zero, and why, in a line."""
    family, total = checkpoint.anatomy.model_type, sum(checkpoint.heads)
    pruned = f"{len(heads)} of {counted(total, 'head')} pruned"
    if shape is None and _is_removable(checkpoint.anatomy):
        return f"{pruned}: set to zero, not removed, as all layers of a {family} have the same number of heads"
    if shape is None:
        return f"{pruned}: set to zero, not removed, as the config of a {family} allows no fewer heads of this size"
    before = checkpoint.anatomy.sizes(checkpoint.config)["head"]
    grouped = f" in {counted(shape[0], 'group')}" if shape[1] > 1 else ""
    words = f"{pruned}: each layer has {counted(math.prod(shape), 'head')}{grouped} instead of {before}"
    zeros = sum(head == NOTHING for layer in slots for head in layer.heads)
    return f"{words}; {zeros} of them are zero, as all layers of a {family} have the same number" if zeros else words


def _stored_type(checkpoint: Checkpoint) -> torch.dtype:
    """Return the type of the stored weights, if all have the same narrow one; else float32."""
    import torch

    types = {location.type for location in checkpoint.locations.values()}
    narrow = {"BF16": torch.bfloat16, "F16": torch.float16}
    return narrow.get(types.pop(), torch.float32) if len(types) == 1 else torch.float32


def _make_readable(folder: Path) -> None:
    """Give all files the permissions of the umask, because safetensors makes files only their owner can read."""
    mode = (folder / run_folder.CONFIG).stat().st_mode
    for path in folder.iterdir():
        path.chmod(stat.S_IMODE(mode))


def _lineage(checkpoint: Checkpoint, heads: Collection[str], pruned: Pruned) -> Lineage:
    """Return the lineage with an event that says which heads were pruned, and where the others are."""
    lineage = copy.deepcopy(checkpoint.lineage)
    step = max([checkpoint.step, *(event.step for event in lineage.events)])
    if not pruned.is_smaller:
        lineage.note(EVENT, step, heads=sorted(heads))
        return lineage
    slots = {
        id: [None if head == NOTHING else f"{id}.h{head}" for head in layer.heads]
        for id, layer in zip(lineage.stack, pruned.slots, strict=True)
    }
    lineage.layers = {id: replace(layer, heads={}) for id, layer in lineage.layers.items()}
    lineage.founding = 0, lineage.founding[1]
    lineage.note(EVENT, step, heads=sorted(heads), slots=slots)
    return lineage
