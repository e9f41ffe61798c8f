"""Recognize model folders and folders of checkpoints by the names of their files."""

from __future__ import annotations

from pathlib import Path

from pli_analysis.runs import unsupported_formats
from pli_analysis.runs.step_names import LINK, natural, numbered
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

HYDRA = ".hydra"
"""In a folder of a run of its own, which Hydra calls by a number."""


def steps_in(folder: Path) -> list[Path]:
    """The model folders right in a folder whose names tell a step, as `step_100` does, in their order; no links."""
    found = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    named = [path for path in found if numbered(path.name) is not None and is_model(path)]
    bare = [path for path in named if not run_folder.checkpoints(path) and not (path / HYDRA).exists()]
    return sorted(bare, key=lambda path: natural(path.name))


def linked_steps_in(folder: Path) -> list[Path]:
    """The links to folders right in a folder whose names tell a step, in their order."""
    found = [path for path in folder.iterdir() if path.is_symlink() and path.is_dir()]
    return sorted((path for path in found if numbered(path.name)), key=lambda path: natural(path.name))


def checkpoints_in(output: Path) -> list[tuple[CheckpointName, Path]]:
    """The checkpoints in a folder of Trainer's: those of GrowthCallback first, which say more, then Trainer's own."""
    growth = output / run_folder.GROWTH
    kept = run_folder.checkpoints(growth) if growth.is_dir() and not growth.is_symlink() else []
    return [*kept, *run_folder.checkpoints(output)]


def is_model(folder: Path) -> bool:
    """Whether a folder looks like that of a model, whether or not it can be read."""
    return (folder / run_folder.CONFIG).exists() and (
        unsupported_formats.has_weights(folder) or bool(unsupported_formats.explain(folder))
    )


def flaw(checkpoint: Path) -> str | None:
    """What keeps a foreign checkpoint from being read, in a few words; None when nothing is seen to by its files."""
    if checkpoint.is_symlink() and CheckpointName.parse(checkpoint.name):
        return LINK
    if not unsupported_formats.has_weights(checkpoint) and (message := unsupported_formats.explain(checkpoint)):
        return message
    if not (checkpoint / run_folder.CONFIG).exists():
        return unsupported_formats.missing_config(checkpoint)
    names = [run_folder.CONFIG]
    if run_folder.is_sharded(checkpoint):
        try:
            names += sorted(set(run_folder.shards(checkpoint / run_folder.WEIGHTS_INDEX).values()))
        except BadInput as error:
            return f"cannot be read: {error}"
    else:
        names.append(run_folder.WEIGHTS)
    for name in names:
        if run_folder.leads_out(checkpoint / name):
            return f"its {name} is a link, which may lead anywhere: copy the folder with links followed (cp -rL)"
        if not (checkpoint / name).is_file():
            return f"lacks {name}"
    return None
