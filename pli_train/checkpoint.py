"""Checkpoints: the whole state of a run at a step, in Hugging Face's own layout, there entirely or not at all.

A checkpoint is written under a partial name, its files are synced, a manifest with their sizes and hashes goes in
last, and one rename makes it appear. Everything is JSON or safetensors; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from pli_train import model as models
from pli_train import run_folder
from pli_train.errors import BadInput
from pli_train.faults import boundary
from pli_train.lineage import BadLineage, Lineage
from pli_train.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import AdamW
    from transformers import PreTrainedModel, TrainerState

    from pli_train.anatomy import Anatomy


@dataclass(frozen=True)
class Restored:
    """What a checkpoint gives back: the model on the CPU, its table, who sits where, and the optimizer's tensors.

    Of a checkpoint that is for analysis only, `optimizer` is empty.
    """

    model: PreTrainedModel
    anatomy: Anatomy
    lineage: Lineage
    trainer_state: TrainerState
    optimizer: dict[str, Tensor]


def write(
    run: Path,
    name: run_folder.CheckpointName,
    model: PreTrainedModel,
    anatomy: Anatomy,
    optimizer: AdamW,
    lineage: Lineage,
    trainer_state: TrainerState,
) -> Path:
    """Write one checkpoint of the present state and return its path, once it would survive a power cut."""
    return put(run, name, Snapshot.take(model, anatomy, optimizer, lineage, trainer_state))


def put(run: Path, name: run_folder.CheckpointName, snapshot: Snapshot) -> Path:
    """Write one checkpoint into a run folder and return its path, once it would survive a power cut."""
    partial = run / f"{run_folder.PARTIAL}{name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    boundary("partial-made")
    files = {}
    for part, file, write_to in snapshot.files():
        _write(part, partial / file, write_to)
        files[file] = _told(partial / file)
    manifest = json.dumps({"files": dict(sorted(files.items()))}, indent=1)
    _write("manifest", partial / run_folder.MANIFEST, lambda path: path.write_text(manifest, encoding="utf-8"))
    sync(partial)
    boundary("partial-synced")
    final = run / str(name)
    _appear(partial, final)
    return final


def read(folder: Path) -> Restored:
    """Read a checkpoint back.

    Raises:
        BadInput: when it is not whole, or its parts do not fit each other.
    """
    from transformers import TrainerState

    if flaw := run_folder.flaw(folder):
        raise BadInput(f"{folder}: {flaw}")
    try:
        lineage = Lineage.read(folder / run_folder.LINEAGE)
    except BadLineage as error:
        raise BadInput(str(error)) from None
    model, anatomy = models.load_checkpoint(folder)
    if len(models.stack_of(model, anatomy)) != len(lineage.stack):
        raise BadInput(f"{folder}: its model and its {run_folder.LINEAGE} have different depths")
    models.slim(model, anatomy, lineage.shapes())
    state = TrainerState.load_from_json(str(folder / run_folder.TRAINER_STATE))
    moments = load_file(folder / run_folder.OPTIMIZER) if run_folder.is_full(folder) else {}
    return Restored(model, anatomy, lineage, state, moments)


def newest(run: Path, say: Callable[[str], None]) -> Path:
    """The last whole checkpoint of a run with the optimizer's state. Damaged ones are passed over with a line each.

    Raises:
        BadInput: when there is none.
    """
    path = run_folder.newest_checkpoint(run, say, full=True)
    if path is None:
        raise BadInput(f"{run}: holds no whole checkpoint to resume from; train it anew with `pli-train run`")
    return path


def lighten(folder: Path) -> None:
    """Leave of a checkpoint what analysis needs: without the optimizer's state it is a third of the size.

    The manifest goes first, so that the checkpoint is whole at every moment.
    """
    if not (folder / run_folder.OPTIMIZER).exists():
        return
    boundary("light-manifest-begin")
    manifest = run_folder.read_json(folder / run_folder.MANIFEST)
    if manifest["files"].pop(run_folder.OPTIMIZER, None):
        write_text(folder / run_folder.MANIFEST, json.dumps(manifest, indent=1), part="light-manifest")
    boundary("light-manifest-replaced")
    (folder / run_folder.OPTIMIZER).unlink()
    sync(folder)
    boundary("optimizer-removed")


def remove(folder: Path) -> None:
    """Take a checkpoint away, in one step for whoever looks on."""
    boundary("removal-begin")
    aside = folder.with_name(f"{run_folder.PARTIAL}old-{folder.name}")
    folder.rename(aside)
    boundary("removal-renamed")
    shutil.rmtree(aside)
    boundary("removal-done")


def clear_partial(run: Path) -> None:
    """Remove what a killed writer left half done."""
    for path in [*run.glob(f"{run_folder.PARTIAL}*"), *run.glob(f"*/{run_folder.PARTIAL}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, part: str | None = None) -> None:
    """Replace a file's content in one step: readers see the old text or the new. `part` names it to `faults`."""
    partial = path.with_name(run_folder.PARTIAL + path.name)
    partial.write_text(text, encoding="utf-8")
    if part:
        boundary(f"{part}-written", partial)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's list of names, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(part: str, path: Path, write_to: Callable[[Path], object]) -> None:
    boundary(f"{part}-begin")
    write_to(path)
    boundary(f"{part}-written", path)
    sync(path)
    boundary(f"{part}-synced")


def _told(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _appear(partial: Path, final: Path) -> None:
    # A folder of that name is there only when a damaged one was passed over on resume.
    aside = final.with_name(f"{run_folder.PARTIAL}old-{final.name}")
    if final.exists():
        final.rename(aside)
    partial.rename(final)
    boundary("renamed")
    sync(final.parent)
    boundary("run-synced")
    shutil.rmtree(aside, ignore_errors=True)
