"""Check weights that another library wrote: errors and notes, each in one line.

`no_weights` returns an error, after which the checkpoint is not used. `lines` returns notes on tensors that
are missing, renamed or at odds with the config.
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
    """Explain in one line why the tensors of a checkpoint are not usable weights; None if they are.

    Raises:
        BadInput: if a file cannot be read, or a tensor is missing from the file that the index names.
    """
    if not checkpoint.files:
        is_sharded = (checkpoint.path / run_folder.WEIGHTS_INDEX).exists()
        remedy = "; delete it to read the shards instead" if is_sharded else ""
        return f"{run_folder.WEIGHTS} holds no tensors{remedy}"
    if reason := unsupported_formats.quantized(checkpoint.stored.values(), checkpoint.config):
        return reason
    files = {path: locations_of(path) for path in dict.fromkeys(checkpoint.files.values())}
    for name, path in checkpoint.files.items():
        stored = checkpoint.stored[name]
        if stored not in files[path]:
            raise BadInput(f"{path}: tensor '{stored}' is missing, although {run_folder.WEIGHTS_INDEX} lists it here")
        location = files[path][stored]
        if (
            location.type not in FLOATS
            and len(location.shape) > 1
            and OF_A_LAYER.search(name)
            and not is_buffer(name, location.shape)
        ):
            is_integer = location.type[0] in "IUB"
            if not is_integer:
                return f"tensor '{stored}' has type {location.type}, which is not supported for weights"
            return f"{unsupported_formats.codes(location.type, checkpoint.config)}: '{stored}' has type {location.type}"
    return None


def lines(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return a note for each difference between what is stored and what is measured."""
    try:
        _ = [checkpoint.anatomy for checkpoint in checkpoints]
    except BadInput:
        return []  # without a table no layers are measured
    return [*_names(checkpoints), *_depths(checkpoints), *_missing(checkpoints)]


def _names(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Yield a note for each way in which tensor names were changed."""
    found: dict[str, list[str]] = {}
    for checkpoint in checkpoints:
        for change in checkpoint.names.changes:
            found.setdefault(change, []).append(str(checkpoint.name))
    for change, where in found.items():
        yield f"{change}{_where(where, checkpoints)}"


def _depths(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Yield a note where config and weights have different numbers of layers."""
    found: dict[tuple[str, int], list[str]] = {}
    for checkpoint in checkpoints:
        says, has = checkpoint.config.get(checkpoint.anatomy.config.get("depth", "")), len(checkpoint.lineage.stack)
        if says is not None and says != has:
            found.setdefault((str(says)[:20], has), []).append(str(checkpoint.name))
    for (says, has), where in found.items():
        weights = f"the weights have {has}{_where(where, checkpoints)}"
        yield f"config.json states {says} layers, but {weights}; those of the weights are measured"


def _missing(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """Yield a note for tensors missing in a layer that other layers, or the same one at another checkpoint, have."""
    everywhere: dict[str, set[str]] = {}
    for checkpoint in checkpoints:
        for id, names in checkpoint.names_of_layers.items():
            # Without a table layers may be of different kinds, so each is only compared with itself.
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
    missing: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (id, inner), where in found.items():
        missing.setdefault((id, tuple(where)), []).append(inner)
    for (id, where_missing), inners in missing.items():
        place = _where(where_missing, checkpoints) or " in all checkpoints"
        yield f"layer {id} is measured without {some(inners)}, missing{place}"


def _where(names: Sequence[str], checkpoints: Sequence[Checkpoint]) -> str:
    """Return ` in …` with the names of checkpoints; empty for all of them."""
    return "" if len(names) == len(checkpoints) else f" in {some(names)}"
