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

from safetensors.torch import load_file, save_file

from pli_train import model as models
from pli_train import optimizer as optimizers
from pli_train import run_folder, stock
from pli_train.errors import BadInput
from pli_train.lineage import BadLineage, Lineage

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import AdamW
    from transformers import PreTrainedModel, TrainerState

    from pli_train.anatomy import Anatomy


@dataclass(frozen=True)
class Restored:
    """What a checkpoint gives back: the model on the CPU, its table, who sits where, and the optimizer's tensors."""

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
    """Write one checkpoint into a run folder and return its path, once it would survive a power cut."""
    partial = run / f"{run_folder.PARTIAL}{name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    # Names as the model has them now: a model that was loaded from older names would be written back under those.
    model.save_pretrained(partial, state_dict=stock.padded(model, anatomy), save_original_format=False)
    trainer_state.save_to_json(str(partial / run_folder.TRAINER_STATE))
    (partial / run_folder.LINEAGE).write_text(lineage.to_json(), encoding="utf-8")
    save_file(optimizers.state_tensors(optimizer, model, anatomy, lineage.stack), partial / run_folder.OPTIMIZER)
    files = {path.name: _told(path) for path in sorted(partial.iterdir())}
    (partial / run_folder.MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    _sync(partial / run_folder.MANIFEST)
    _sync(partial)
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
    return Restored(model, anatomy, lineage, state, load_file(folder / run_folder.OPTIMIZER))


def newest(run: Path, say: Callable[[str], None]) -> Path:
    """The last whole checkpoint of a run. Damaged ones are passed over, each with one line.

    Raises:
        BadInput: when there is none.
    """
    path = run_folder.newest_checkpoint(run, say)
    if path is None:
        raise BadInput(f"{run}: holds no whole checkpoint to resume from; train it anew with `pli-train run`")
    return path


def clear_partial(run: Path) -> None:
    """Remove what a killed writer left half done."""
    for path in run.glob(f"{run_folder.PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step: readers see the old text or the new."""
    partial = path.with_name(run_folder.PARTIAL + path.name)
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _told(path: Path) -> dict[str, Any]:
    _sync(path)
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _appear(partial: Path, final: Path) -> None:
    # A folder of that name is there only when a damaged one was passed over on resume.
    if final.exists():
        aside = final.with_name(f"{run_folder.PARTIAL}old-{final.name}")
        final.rename(aside)
        partial.rename(final)
        shutil.rmtree(aside)
    else:
        partial.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
