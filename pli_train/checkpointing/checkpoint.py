"""Write and read checkpoints atomically, in Hugging Face's layout.

A checkpoint is written to a folder with a partial name, its files are synced, a manifest with their sizes and hashes is
written last, and the folder is then renamed. All files are JSON or safetensors; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.checkpointing.snapshot import Snapshot
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.output import make, replace, sync
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.faults import boundary
from pli_train.models import build as models
from pli_train.models import resize, safe_loading

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor
    from torch.optim import AdamW
    from transformers import PreTrainedModel, TrainerState

    from pli_train.core.anatomy import Anatomy

OURS = "pli_train"
"""Key of this project's values in the `stateful_callbacks` of a `trainer_state.json`."""


@dataclass(frozen=True)
class Restored:
    """Contents of a checkpoint: model on the CPU, parameter table, lineage, trainer state, optimizer tensors.

    `optimizer` is empty if the checkpoint is for analysis only.
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
    """Write a checkpoint of the current state, synced to disk, and return its path."""
    return put(run, name, Snapshot.take(model, anatomy, optimizer, lineage, trainer_state))


def put(run: Path, name: run_folder.CheckpointName, snapshot: Snapshot) -> Path:
    """Write a checkpoint into a run folder, synced to disk, and return its path."""
    partial = run / f"{run_folder.PARTIAL}{name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    boundary("partial-made")
    files = {}
    for part, file, write_to in snapshot.files():
        _write(part, partial / file, write_to)
        files[file] = _describe(partial / file)
    manifest = json.dumps({"files": dict(sorted(files.items()))}, indent=1)
    _write("manifest", partial / run_folder.MANIFEST, lambda path: path.write_text(manifest, encoding="utf-8"))
    sync(partial)
    boundary("partial-synced")
    final = run / str(name)
    _appear(partial, final)
    return final


def read(folder: Path) -> Restored:
    """Read a checkpoint.

    Raises:
        BadInput: when it is damaged, or its files do not match each other.
    """
    if flaw := run_folder.flaw(folder):
        raise BadInput(f"{folder}: {flaw}")
    lineage = Lineage.read(folder / run_folder.LINEAGE)
    model, anatomy = models.load_checkpoint(folder)
    if len(models.stack_of(model, anatomy)) != len(lineage.stack):
        raise BadInput(f"{folder}: its model and its {run_folder.LINEAGE} have different depths")
    _check_shapes(folder, model, anatomy, lineage)
    models.shrink(model, anatomy, lineage.shapes())
    state = read_state(folder / run_folder.TRAINER_STATE)
    moments = safe_loading.read_tensors(folder / run_folder.OPTIMIZER) if run_folder.is_full(folder) else {}
    return Restored(model, anatomy, lineage, state, moments)


def newest(run: Path, say: Callable[[str], None]) -> Path:
    """Return the newest complete checkpoint that training can resume from, after checking the hashes of its files.

    Damaged checkpoints are skipped with one line each, those without optimizer state silently.

    Raises:
        BadInput: when there is none.
    """
    path = run_folder.newest_checkpoint(run, say, full=True, hashes=True)
    if path is None:
        raise BadInput(f"{run}: holds no whole checkpoint to resume from; start a new run with `pli-train run`")
    return path


def lighten(folder: Path) -> None:
    """Remove the optimizer state, which analysis does not need. This leaves a third of the size.

    The manifest is replaced first, so that the checkpoint is valid at every moment.
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
    """Remove a checkpoint. It disappears atomically for readers."""
    boundary("removal-begin")
    aside = folder.with_name(f"{run_folder.PARTIAL}old-{folder.name}")
    folder.rename(aside)
    boundary("removal-renamed")
    shutil.rmtree(aside)
    boundary("removal-done")


def _check_shapes(folder: Path, model: PreTrainedModel, anatomy: Anatomy, lineage: Lineage) -> None:
    """Raise BadInput when the lineage has more heads or FFN units than the model, or an incomplete K/V group."""
    for id, layer in zip(lineage.stack, models.stack_of(model, anatomy), strict=True):
        sizes, (heads, units) = resize.sizes_of(layer, anatomy, model.config), lineage.shape(id)
        if sizes["head"] and (not 0 < heads <= sizes["head"] or heads % sizes["member"]):
            raise BadInput(f"{folder}: layer {id} has {heads} heads in its lineage and {sizes['head']} in its model")
        if sizes["head"] and units is not None and units > sizes["unit"]:
            raise BadInput(f"{folder}: layer {id} has {units} FFN units in its lineage, {sizes['unit']} in its model")


def read_state(path: Path) -> TrainerState:
    """Read a `trainer_state.json`. Raises BadInput when anything in it is unusable for training."""
    from transformers import TrainerState

    table = run_folder.read_json(path)
    known = {field.name for field in fields(TrainerState)}
    if strange := [key for key in table if key not in known]:
        raise BadInput(f"{path}: has an unknown key {strange[0]!r}")
    history, callbacks = table.get("log_history"), table.get("stateful_callbacks")
    counts = callbacks.get(OURS) if isinstance(callbacks, dict) else None
    if not isinstance(history, list) or not all(_is_entry(entry) for entry in history):
        raise BadInput(f"{path}: log_history is not a list of entries with a step and numbers by name")
    if not isinstance(counts, dict) or not all(_is_count(counts.get(key)) for key in ("tokens", "flops")):
        raise BadInput(f"{path}: the numbers of tokens and flops are missing")
    if not _is_count(table.get("global_step")) or not _is_number(counts.get("seconds")):
        raise BadInput(f"{path}: the numbers of steps and seconds are missing")
    name = run_folder.CheckpointName.parse(path.parent.name)
    if name is not None and name.step != table["global_step"]:
        raise BadInput(f"{path}: is of step {table['global_step']}, but its folder's name is {name}")
    return TrainerState(**table)


def _is_entry(entry: object) -> bool:
    # All values are numbers. Evaluations also have FLOPs, which the adaptive schedule reads.
    if not isinstance(entry, dict) or not all(_is_number(value) for value in entry.values()):
        return False
    return _is_count(entry.get("step")) and ("eval_loss" not in entry or "flops" in entry)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_count(value)


def clear_partial(run: Path) -> None:
    """Remove incomplete files of a killed writer."""
    for path in [*run.glob(f"{run_folder.PARTIAL}*"), *run.glob(f"*/{run_folder.PARTIAL}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, part: str | None = None) -> None:
    """Replace a file's content atomically: readers see the old text or the new. `part` is its name for `faults`."""

    def fill(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")
        if part:
            boundary(f"{part}-written", partial)

    replace(path, fill)


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Replace a safetensors file of named arrays atomically."""
    from safetensors.numpy import save_file

    replace(path, lambda partial: save_file(tensors, partial))


def _write(part: str, path: Path, write_to: Callable[[Path], object]) -> None:
    boundary(f"{part}-begin")
    make(path, write_to)
    boundary(f"{part}-written", path)
    sync(path)
    boundary(f"{part}-synced")


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _appear(partial: Path, final: Path) -> None:
    # The folder exists only if it is a damaged checkpoint that was skipped on resume.
    aside = final.with_name(f"{run_folder.PARTIAL}old-{final.name}")
    if final.exists():
        final.rename(aside)
    partial.rename(final)
    boundary("renamed")
    sync(final.parent)
    boundary("run-synced")
    shutil.rmtree(aside, ignore_errors=True)
