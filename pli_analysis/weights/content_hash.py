"""Cache keys from hashes of checkpoints."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_analysis.runs.checkpoint import Checkpoint

ESSENTIAL = (run_folder.CONFIG, run_folder.LINEAGE, run_folder.WEIGHTS_INDEX)


def content(checkpoint: Checkpoint) -> list[list[str]] | None:
    """Names and hashes of what is read of a checkpoint; None where its manifest does not tell them.

    Where nobody wrote a manifest it is the lineage, where the layers are, the names that their tensors are read under,
    and of each file what changes when it is written to: its place, its size, the time of its last change to the
    nanosecond, its number on the disk.

    Raises:
        BadInput: when a file is gone.
    """
    return _listed(checkpoint) if checkpoint.known is None else _as_it_lies(checkpoint)


def key_of(*checkpoints: Checkpoint, more: bytes = b"") -> str | None:
    """A hash of the content of some checkpoints, and of what else went into a result; None where it is not known."""
    message = [content(checkpoint) for checkpoint in checkpoints]
    return None if None in message else hashlib.sha256(json.dumps(message).encode() + more).hexdigest()


def _listed(checkpoint: Checkpoint) -> list[list[str]] | None:
    found = []
    for name, message in sorted(run_folder.listed(checkpoint.path).items()):
        if (name.endswith(".safetensors") and name != run_folder.OPTIMIZER) or name in ESSENTIAL:
            if not isinstance(message.get("sha256"), str):
                return None
            found.append([name, message["sha256"]])
    return found if any(name.endswith(".safetensors") for name, _ in found) else None


def _as_it_lies(checkpoint: Checkpoint) -> list[list[str]]:
    names = json.dumps(checkpoint.names_of_layers).encode()
    found = [["lineage", hashlib.sha256(checkpoint.lineage.to_json().encode() + names).hexdigest()]]
    table = checkpoint.anatomy  # the same files are measured otherwise at another stack, and once there is a table
    layout = json.dumps([table.model_type, table.stack, sorted(table.tensors.items())])
    found.append(["layout", hashlib.sha256(layout.encode()).hexdigest()])
    for path in dict.fromkeys([checkpoint.path / run_folder.CONFIG, *checkpoint.files.values()]):
        try:
            message = path.stat()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
        found.append(
            [str(path.resolve()), f"{message.st_size} {message.st_mtime_ns} {message.st_ino} {message.st_dev}"]
        )
    return found
