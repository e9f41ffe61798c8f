"""Checkpoints that nobody wrote for us: a folder of Hugging Face's Trainer, a model folder, several of them in order.

They have no manifest, and mostly no lineage: that is inferred from weights (`inferred`), or told by the user. What is
read of them is read as suspiciously as a run: safetensors only, no links, no path out of the folder.

A part counts as born at the first checkpoint that has it, and its birth weights are those it has there: what training
did to it before is not to be known. Where checkpoints have a `lineage.json` each, it is moved to such steps.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis.others.inferred import Inferred, infer, seen_from
from pli_analysis.run import Checkpoint, Run, Watch
from pli_train import run_folder
from pli_train.errors import BadInput
from pli_train.lineage import BadLineage, Lineage
from pli_train.run_folder import CheckpointName

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars import Scalars

_log = logging.getLogger(__name__)
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TEXT_BLOCK = 128
"""Tokens of a block of text, at most, where no record says how long training had them."""
MASKED_SHARE = 0.15
"""Devlin et al. 2018, as Hugging Face's collator has it too."""


@dataclass(frozen=True, order=True)
class Label(CheckpointName):
    """The name of a checkpoint whose folder is called after something else than its step."""

    label: str = ""

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class ForeignRun(Run):
    """Checkpoints of one model in order, read as a run is.

    Attributes:
        path: what they have in common: Trainer's output folder, a model's folder.
        found: name and folder of each.
        told: a `lineage.json` to go by instead of what the checkpoints say.
        numbered: whether steps are mere numbers, as neither names nor states of training tell them.
        watch: told (done, in all) of checkpoints that layers are followed through.
        stack: path of the list of layers to read, where there are several; that with most weights if None.
    """

    found: tuple[tuple[CheckpointName, Path], ...] = ()
    told: Path | None = None
    numbered: bool = False
    watch: Watch = field(default=lambda done, total: None, repr=False, compare=False)
    stack: str | None = None

    @cached_property
    def record(self) -> dict[str, Any]:
        """What a run's `run.json` would say, as far as it can be known."""
        steps = self.checkpoints[-1].state.get("max_steps")
        return {"total_steps": steps} if type(steps) is int and 0 < steps < 2**53 else {}

    @property
    def training(self) -> dict[str, Any]:
        """What it is taken to have trained with, to cut a text into blocks: nobody wrote it down."""
        last = self.checkpoints[-1]
        positions = last.anatomy.positions(last.config)
        length = min(positions, TEXT_BLOCK) if isinstance(positions, int) and positions > 0 else TEXT_BLOCK
        return {"block_size": length, "mlm_probability": MASKED_SHARE}

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer: the last checkpoint's, or the one above."""
        folders = (self.checkpoints[-1].path, self.path)
        return next((folder for folder in folders if (folder / "tokenizer.json").is_file()), folders[0])

    @property
    def lineage(self) -> Lineage:
        """Every layer and event so far."""
        return self.checkpoints[-1].lineage

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The usable checkpoints in order, each with its lineage. Raises BadInput when there is none."""
        return [replace(bare, known=known) for bare, known in zip(self._bare, self._lineages, strict=True)]

    @cached_property
    def inferred(self) -> Inferred | None:
        """The lineage that was found by weights, and how sure it is; None where it was told."""
        if self.told is None and all((bare.path / run_folder.LINEAGE).is_file() for bare in self._bare):
            return None
        return infer(self._bare, self.watch) if self.told is None else None

    @property
    def confidence(self) -> pd.DataFrame | None:
        """How sure each match is, see `pli_analysis.others.inferred.Inferred`; None where the lineage was told."""
        return None if self.inferred is None else self.inferred.confidence

    @property
    def notes(self) -> list[str]:
        """What whoever reads a table of it should know, a line each."""
        lines = ["steps are numbers in the order given: no name and no trainer_state.json tells them"] * self.numbered
        lines += self.checkpoints[-1].layout.notes
        if (table := self.confidence) is None:
            return [*lines, "birth weights are those of the first checkpoint that has a part"]
        if not len(table):
            return lines
        least = table.loc[table["confidence"].idxmin()]
        return [
            *lines,
            f"lineage inferred from weights; lowest confidence {least['confidence']:.2f} at {least['checkpoint']}; "
            "see pli-analyze lineage --confidence",
        ]

    @property
    def damaged(self) -> list[str]:
        """One line for each checkpoint folder that cannot be used."""
        return [f"{path.name} {told}" for _, path in self.found if (told := flaw(path))]

    @cached_property
    def scalars(self) -> Scalars:
        """What Trainer logged, as far as it is there."""
        from pli_analysis.others import trainer_log

        return trainer_log.read(self.path, self.checkpoints[-1].state)

    @cached_property
    def _bare(self) -> list[Checkpoint]:
        usable = [
            Checkpoint(name, path, foreign=True, stack=self.stack) for name, path in self.found if flaw(path) is None
        ]
        if not usable:
            raise BadInput(f"{self.path}: holds no checkpoint to read" + "".join(f"; {line}" for line in self.damaged))
        first = usable[0].anatomy  # the same stack at all of them, even if another one outgrows it
        if self.stack is None and (first.stacks or first.by_name):
            usable = [replace(one, stack=first.stack) for one in usable]
        _log.debug("%s: %d checkpoints of others, %d passed over", self.path, len(usable), len(self.damaged))
        return usable

    @cached_property
    def _lineages(self) -> list[Lineage]:
        if self.inferred is not None:
            return self.inferred.lineages
        steps = [bare.step for bare in self._bare]
        if self.told is not None:
            whole = _read(self.told)
            counts = [sum(event.step <= step for event in whole.events) for step in steps]
        else:
            each = [_read(bare.path / run_folder.LINEAGE) for bare in self._bare]
            whole, counts = each[-1], [len(lineage.events) for lineage in each]
            for bare, lineage, count in zip(self._bare, each, counts, strict=True):
                if lineage.stack != whole.as_of(count).stack:
                    last = self._bare[-1].name
                    raise BadInput(f"{bare.path}: its {run_folder.LINEAGE} tells of another history than {last}'s")
        return seen(whole, counts, steps)


def seen(lineage: Lineage, counts: Sequence[int], steps: Sequence[int]) -> list[Lineage]:
    """The lineage at each checkpoint, every birth at the step of the first checkpoint that has it.

    Args:
        lineage: the whole one.
        counts: how many events each checkpoint has behind it.
        steps: of the checkpoints.
    """
    at = {number: steps[next(k for k, count in enumerate(counts) if count >= number)] for number in _numbers(counts)}
    whole = seen_from(lineage.as_of(max(counts)), steps[0])
    events = [replace(event, step=at[event.number]) for event in whole.events]
    for id, layer in whole.layers.items():
        birth, heads = layer.birth, layer.heads
        whole.layers[id] = replace(
            layer,
            birth=birth if birth.event is None else replace(birth, step=at[birth.event]),
            heads={h: b if b.event is None else replace(b, step=at[b.event]) for h, b in heads.items()},
        )
    moved = Lineage(whole.stack, whole.layers, events, whole.founding)
    return [moved.as_of(count) for count in counts]


def _numbers(counts: Sequence[int]) -> range:
    return range(1, max(counts) + 1)


def _read(path: Path) -> Lineage:
    try:
        return Lineage.read(path)
    except BadLineage as error:
        raise BadInput(str(error)) from None


# --- finding them ----------------------------------------------------------------------------------------------------


def open_foreign(
    paths: Sequence[Path],
    told: Path | None = None,
    watch: Watch = lambda done, total: None,
    stack: str | None = None,
) -> ForeignRun:
    """Open a folder of Trainer's, a model folder, or several checkpoint folders.

    Args:
        paths: one output folder, or checkpoint folders in order.
        told: a `lineage.json` to go by.
        watch: told (done, in all) of checkpoints that layers are followed through.
        stack: path of the list of layers to read.

    Raises:
        BadInput: when there is nothing of the kind.
    """
    for path in paths:
        if not path.is_dir():
            raise BadInput(f"{path}: no such folder")
    if len(paths) == 1:
        inside = run_folder.checkpoints(paths[0])
        if inside:
            return ForeignRun(paths[0], found=tuple(inside), told=told, watch=watch, stack=stack)
        if not is_model(paths[0]):
            raise BadInput(f"{paths[0]}: not a run, it holds no {run_folder.RUN}, and no checkpoints of a model either")
    for path in paths:
        if (path / run_folder.RUN).is_file() and len(paths) > 1:
            raise BadInput(f"{path}: is a run, and several arguments are checkpoints of one: name it alone")
        if found := flaw(path):
            raise BadInput(f"{path}: {found}")
    named, numbered = _named(paths)
    return ForeignRun(_root(paths), found=tuple(named), told=told, numbered=numbered, watch=watch, stack=stack)


def is_model(folder: Path) -> bool:
    """Whether a folder looks like that of a model, whether or not it can be read."""
    weights = (run_folder.WEIGHTS, run_folder.WEIGHTS_INDEX, *PICKLED)
    return (folder / run_folder.CONFIG).exists() and any((folder / name).exists() for name in weights)


def flaw(checkpoint: Path) -> str | None:
    """What keeps a foreign checkpoint from being read, in a few words; None when nothing is seen to."""
    if checkpoint.is_symlink() and CheckpointName.parse(checkpoint.name):
        return "is a link, which may lead out of the folder"
    names = [run_folder.CONFIG]
    if (checkpoint / run_folder.WEIGHTS_INDEX).exists():
        try:
            names += sorted(set(run_folder.shards(checkpoint / run_folder.WEIGHTS_INDEX).values()))
        except BadInput as error:
            return f"cannot be read: {error}"
    elif not (checkpoint / run_folder.WEIGHTS).exists() and any((checkpoint / name).exists() for name in PICKLED):
        return (
            "has its weights in pytorch_model.bin, a format that can run code and is not read here: convert it with "
            "save_pretrained"
        )
    else:
        names.append(run_folder.WEIGHTS)
    for name in names:
        if (checkpoint / name).is_symlink():
            return f"its {name} is a link, which may lead anywhere: copy the folder with links followed (cp -rL)"
        if not (checkpoint / name).is_file():
            return f"lacks {name}"
    return None


def _named(paths: Sequence[Path]) -> tuple[list[tuple[CheckpointName, Path]], bool]:
    """Checkpoints in the order of their steps; where not each has one of its own, numbered in the order given."""
    real = [path.resolve() for path in paths]
    names = [CheckpointName.parse(path.name) or _step_of(path) for path in real]
    labels = [path.name for path in real]
    if len(set(labels)) < len(labels):
        labels = [f"{path.parent.name}/{path.name}" for path in real]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in real]
    if len(set(labels)) < len(labels):
        twice = next(path for path in real if real.count(path) > 1)
        raise BadInput(f"{twice}: is given twice")
    known = [name for name in names if name is not None]
    numbered = len({(name.step, name.after) for name in known}) < len(paths)
    told = []
    for number, (name, label, path) in enumerate(zip(names, labels, paths, strict=True)):
        place = CheckpointName(number) if numbered or name is None else name
        told.append((Label(place.step, place.after, label), path))
    told.sort(key=lambda one: (one[0].step, one[0].after))
    return [*told], numbered and len(paths) > 1


def _step_of(checkpoint: Path) -> CheckpointName | None:
    state = checkpoint / run_folder.TRAINER_STATE
    step = run_folder.read_json(state).get("global_step") if state.is_file() else None
    return CheckpointName(step) if type(step) is int and 0 <= step < 2**53 else None


def _root(paths: Sequence[Path]) -> Path:
    return paths[0] if len(paths) == 1 else Path(commonpath([path.resolve() for path in paths]))
