"""Write and read checkpoints atomically, in Hugging Face's layout.

A checkpoint is written under a partial name, its files are synced, a manifest with their sizes and hashes goes in
last, and one rename makes it appear. Everything is JSON or safetensors; nothing is pickled.
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
"""Where our own numbers are in the `stateful_callbacks` of a `trainer_state.json`."""


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
        files[file] = _describe(partial / file)
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
    if flaw := run_folder.flaw(folder):
        raise BadInput(f"{folder}: {flaw}")
    lineage = Lineage.read(folder / run_folder.LINEAGE)
    model, anatomy = models.load_checkpoint(folder)
    if len(models.stack_of(model, anatomy)) != len(lineage.stack):
        raise BadInput(f"{folder}: its model and its {run_folder.LINEAGE} have different depths")
    _check_shapes(folder, model, anatomy, lineage)
    models.shrink(model, anatomy, lineage.shapes())
    state = _read_state(folder / run_folder.TRAINER_STATE)
    moments = safe_loading.read_tensors(folder / run_folder.OPTIMIZER) if run_folder.is_full(folder) else {}
    return Restored(model, anatomy, lineage, state, moments)


def newest(run: Path, say: Callable[[str], None]) -> Path:
    """The last whole checkpoint of a run that training can go on from, every file of it as its hash says.

    Damaged ones are passed over with a line each, those with weights only in silence.

    Raises:
        BadInput: when there is none.
    """
    path = run_folder.newest_checkpoint(run, say, full=True, hashes=True)
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


def _check_shapes(folder: Path, model: PreTrainedModel, anatomy: Anatomy, lineage: Lineage) -> None:
    """Raise BadInput where a lineage tells of more heads or FFN units than the model has, or of a piece of a group."""
    for id, layer in zip(lineage.stack, models.stack_of(model, anatomy), strict=True):
        sizes, (heads, units) = resize.sizes_of(layer, anatomy, model.config), lineage.shape(id)
        if sizes["head"] and (not 0 < heads <= sizes["head"] or heads % sizes["member"]):
            raise BadInput(f"{folder}: layer {id} has {heads} heads in its lineage and {sizes['head']} in its model")
        if sizes["head"] and units is not None and units > sizes["unit"]:
            raise BadInput(f"{folder}: layer {id} has {units} FFN units in its lineage, {sizes['unit']} in its model")


def _read_state(path: Path) -> TrainerState:
    """Raises BadInput for anything in it that the loop would stumble over."""
    from transformers import TrainerState

    table = run_folder.read_json(path)
    known = {field.name for field in fields(TrainerState)}
    if strange := [key for key in table if key not in known]:
        raise BadInput(f"{path}: {strange[0]!r} is not one of its keys")
    history, ours = table.get("log_history"), table.get("stateful_callbacks")
    message = ours.get(OURS) if isinstance(ours, dict) else None
    if not isinstance(history, list) or not all(_is_entry(entry) for entry in history):
        raise BadInput(f"{path}: its log_history is not a list of numbers by name, each with its step")
    if not isinstance(message, dict) or not all(_is_count(message.get(key)) for key in ("tokens", "flops")):
        raise BadInput(f"{path}: does not say how many tokens and flops are done")
    if not _is_count(table.get("global_step")) or not _is_number(message.get("seconds")):
        raise BadInput(f"{path}: does not say how many steps and seconds are done")
    name = run_folder.CheckpointName.parse(path.parent.name)
    if name is not None and name.step != table["global_step"]:
        raise BadInput(f"{path}: is of step {table['global_step']}, and its folder's name is {name}")
    return TrainerState(**table)


def _is_entry(entry: object) -> bool:
    # An entry of ours has numbers only; what logged an evaluation also logged its FLOPs, which growth may ask for.
    if not isinstance(entry, dict) or not all(_is_number(value) for value in entry.values()):
        return False
    return _is_count(entry.get("step")) and ("eval_loss" not in entry or "flops" in entry)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_count(value)


def clear_partial(run: Path) -> None:
    """Remove what a killed writer left half done."""
    for path in [*run.glob(f"{run_folder.PARTIAL}*"), *run.glob(f"*/{run_folder.PARTIAL}*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, part: str | None = None) -> None:
    """Replace a file's content in one step: readers see the old text or the new. `part` names it to `faults`."""

    def fill(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")
        if part:
            boundary(f"{part}-written", partial)

    replace(path, fill)


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Replace a file of named arrays in one step, as safetensors."""
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
    # A folder of that name is there only when a damaged one was passed over on resume.
    aside = final.with_name(f"{run_folder.PARTIAL}old-{final.name}")
    if final.exists():
        final.rename(aside)
    partial.rename(final)
    boundary("renamed")
    sync(final.parent)
    boundary("run-synced")
    shutil.rmtree(aside, ignore_errors=True)
