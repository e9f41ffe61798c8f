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
    """Return names and hashes of the files of a checkpoint that are read; None if its manifest has no hashes.

    Checkpoints of other libraries have no manifest. There it is the lineage, the layout of layers and names of tensors,
    and for each file its path, size, modification time in nanoseconds, inode and device.

    Raises:
        BadInput: if a file is missing.
    """
    return _listed(checkpoint) if checkpoint.known is None else _of_files(checkpoint)


def key_of(*checkpoints: Checkpoint, more: bytes = b"") -> str | None:
    """Return a hash of the content of some checkpoints and of further inputs; None if their content is not known."""
    contents = [content(checkpoint) for checkpoint in checkpoints]
    return None if None in contents else hashlib.sha256(json.dumps(contents).encode() + more).hexdigest()


def key_of_bytes(checkpoint: Checkpoint, more: bytes = b"") -> str:
    """Return a hash of the bytes of a checkpoint's files, which are read, and of further inputs.

    Unlike `key_of`, it does not rely on a manifest, which does not know of later damage.
    """
    found = hashlib.sha256(checkpoint.lineage.to_json().encode() + more)
    for path in dict.fromkeys([checkpoint.path / run_folder.CONFIG, *checkpoint.files.values()]):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _listed(checkpoint: Checkpoint) -> list[list[str]] | None:
    hashes = []
    for name, entry in sorted(run_folder.listed(checkpoint.path).items()):
        if (name.endswith(".safetensors") and name != run_folder.OPTIMIZER) or name in ESSENTIAL:
            if not isinstance(entry.get("sha256"), str):
                return None
            hashes.append([name, entry["sha256"]])
    return hashes if any(name.endswith(".safetensors") for name, _ in hashes) else None


def _of_files(checkpoint: Checkpoint) -> list[list[str]]:
    names = json.dumps(checkpoint.names_of_layers).encode()
    keys = [["lineage", hashlib.sha256(checkpoint.lineage.to_json().encode() + names).hexdigest()]]
    table = checkpoint.anatomy  # results for the same files depend on the layer stack and on the family's table
    layout = json.dumps([table.model_type, table.stack, sorted(table.tensors.items())])
    keys.append(["layout", hashlib.sha256(layout.encode()).hexdigest()])
    for path in dict.fromkeys([checkpoint.path / run_folder.CONFIG, *checkpoint.files.values()]):
        try:
            stats = path.stat()
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
        keys.append([str(path.resolve()), f"{stats.st_size} {stats.st_mtime_ns} {stats.st_ino} {stats.st_dev}"])
    return keys
