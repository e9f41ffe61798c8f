"""Recognize model folders and folders of checkpoints by the names of their files."""

from __future__ import annotations

from pathlib import Path

from pli_analysis.runs import unsupported_formats
from pli_analysis.runs.step_names import LINK, natural, numbered
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

HYDRA = ".hydra"
"""Folder that Hydra creates in each run, whose folder it may name by a number."""


def steps_in(folder: Path) -> list[Path]:
    """Return the model folders directly in a folder whose names contain a step, as `step_100`, in order; no links."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    named = [path for path in folders if numbered(path.name) is not None and is_model(path)]
    models = [path for path in named if not run_folder.checkpoints(path) and not (path / HYDRA).exists()]
    return sorted(models, key=lambda path: natural(path.name))


def linked_steps_in(folder: Path) -> list[Path]:
    """Return the links to folders directly in a folder whose names contain a step, in order."""
    linked = [path for path in folder.iterdir() if path.is_symlink() and path.is_dir()]
    return sorted((path for path in linked if numbered(path.name)), key=lambda path: natural(path.name))


def checkpoints_in(output: Path) -> list[tuple[CheckpointName, Path]]:
    """Return the checkpoints in Trainer's output: first those of GrowthCallback, which hold more, then Trainer's."""
    growth = output / run_folder.GROWTH
    kept = run_folder.checkpoints(growth) if growth.is_dir() and not growth.is_symlink() else []
    return [*kept, *run_folder.checkpoints(output)]


def is_model(folder: Path) -> bool:
    """Return whether a folder holds a config and weights, readable or not."""
    return (folder / run_folder.CONFIG).exists() and (
        unsupported_formats.has_weights(folder) or bool(unsupported_formats.explain(folder))
    )


def flaw(checkpoint: Path) -> str | None:
    """Explain in one line why a foreign checkpoint cannot be read; None if its files are present and no links."""
    if checkpoint.is_symlink() and CheckpointName.parse(checkpoint.name):
        return LINK
    if not unsupported_formats.has_weights(checkpoint) and (reason := unsupported_formats.explain(checkpoint)):
        return reason
    if not (checkpoint / run_folder.CONFIG).exists():
        return unsupported_formats.missing_config(checkpoint)
    names = [run_folder.CONFIG]
    if run_folder.is_sharded(checkpoint):
        try:
            names += sorted(set(run_folder.shards(checkpoint / run_folder.WEIGHTS_INDEX).values()))
        except BadInput as error:
            return str(error).removeprefix(f"{checkpoint}/")
    else:
        names.append(run_folder.WEIGHTS)
    for name in names:
        if run_folder.leads_out(checkpoint / name):
            return f"{name} is a link, which is not followed; copy the folder with `cp -rL` to replace links by files"
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    return None
