"""Flaws and peculiarities of other people's weights, each in one line.

What makes a checkpoint of no use is told as its flaw; what is left out of it, or read in another way than it says, is
told in a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pli_analysis.runs import unsupported_formats
from pli_analysis.runs.safetensors_file import locations_of
from pli_analysis.runs.tensor_location import FLOATS
from pli_train.core.anatomy.names import is_buffer
from pli_train.core.errors import BadInput, some
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint

OF_A_LAYER = re.compile(r"(^|\.)\d+\.")


def no_weights(checkpoint: Checkpoint) -> str | None:
    """What its tensors are when they are no weights, in a few words.

    Raises:
        BadInput: when a file cannot be read, or does not hold what the index says.
    """
    if not checkpoint.files:
        rest = ": remove it, and its shards are read" if (checkpoint.path / run_folder.WEIGHTS_INDEX).exists() else ""
        return f"holds no tensor in {run_folder.WEIGHTS}{rest}"
    if found := unsupported_formats.quantized(checkpoint.stored.values(), checkpoint.config):
        return found
    files = {path: locations_of(path) for path in dict.fromkeys(checkpoint.files.values())}
    for name, path in checkpoint.files.items():
        stored = checkpoint.stored[name]
        if stored not in files[path]:
            raise BadInput(f"{path}: does not hold '{stored}', which the index says it does")
        position = files[path][stored]
        if (
            position.type not in FLOATS
            and len(position.shape) > 1
            and OF_A_LAYER.search(name)
            and not is_buffer(name, position.shape)
        ):
            whole = position.type[0] in "IUB"
            message = (
                unsupported_formats.codes(position.type, checkpoint.config) if whole else "is no checkpoint of weights"
            )
            return f"{message}: {stored} has numbers of type {position.type}"
    return None


def lines(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """A line for everything that is read in another way than it is written, or left out."""
    try:
        _ = [checkpoint.anatomy for checkpoint in checkpoints]
    except BadInput:
        return []  # of a family without a table, whose layers are not measured
    return [*_names(checkpoints), *_depths(checkpoints), *_missing(checkpoints)]


def _names(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for checkpoint in checkpoints:
        for message in checkpoint.names.changes:
            found.setdefault(message, []).append(str(checkpoint.name))
    for message, where in found.items():
        yield f"{message}{_where(where, checkpoints)}"


def _depths(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    found: dict[tuple[str, int], list[str]] = {}
    for checkpoint in checkpoints:
        says, has = checkpoint.config.get(checkpoint.anatomy.config.get("depth", "")), len(checkpoint.lineage.stack)
        if says is not None and says != has:
            found.setdefault((str(says)[:20], has), []).append(str(checkpoint.name))
    for (says, has), where in found.items():
        yield f"config.json says {says} layers and the weights have {has}, which count{_where(where, checkpoints)}"


def _missing(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Tensors that a layer lacks and another layer, or the same one at another checkpoint, has."""
    everywhere: dict[str, set[str]] = {}
    for checkpoint in checkpoints:
        for id, names in checkpoint.names_of_layers.items():
            # Without a table layers may be of several kinds: then each is compared with itself alone.
            everywhere.setdefault(id if checkpoint.anatomy.by_name else "", set()).update(names)
    found: dict[tuple[str, str], list[str]] = {}
    for checkpoint in checkpoints:
        table = checkpoint.anatomy
        for index, (id, names) in enumerate(checkpoint.names_of_layers.items()):
            for inner in sorted(everywhere[id if table.by_name else ""] - set(names)):
                module = inner.rpartition(".")[0]
                by_design = inner in table.bottom_only if index else module in table.bottom.get("missing", {})
                if not by_design:
                    found.setdefault((id, inner), []).append(str(checkpoint.name))
    lacking: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (id, inner), where in found.items():
        lacking.setdefault((id, tuple(where)), []).append(inner)
    for (id, locations), inners in lacking.items():
        yield f"layer {id} lacks {some(inners)}{_where(locations, checkpoints)}: it is measured without"


def _where(names: Sequence[str], checkpoints: Sequence[Checkpoint]) -> str:
    return "" if len(names) == len(checkpoints) else f" in {some(names)}"
