"""Checkpoints that nobody wrote for us: a folder of Hugging Face's Trainer, a model folder, several of them in order.

They have no manifest, and mostly no lineage: that is inferred from weights (`inferred`), or told by the user. What is
read of them is read as suspiciously as a run: safetensors only, no links, no path out of the folder.

Where no lineage is written, a part counts as born at the first checkpoint that has it. One that GrowthCallback wrote
into each checkpoint, or the user gives, stands as it is: who was born when, from whom, and where. Birth weights are
always those of the first checkpoint that has a part, which may lie later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis.others import trainer_log
from pli_analysis.others.inferred import Inferred, infer
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
class ForeignCheckpoint(Checkpoint):
    """A checkpoint that nobody wrote for us. Its `trainer_state.json` may be missing, or another training's.

    Attributes:
        counted: whether training counted tokens, as Trainer does when asked to.
    """

    counted: bool = False

    @cached_property
    def state(self) -> dict[str, Any]:
        """How far training was, in Hugging Face's words; empty where no file tells, or one of another step."""
        return trainer_log.state_of(self.path)

    @cached_property
    def tokens(self) -> int | None:
        """Tokens trained on so far; None where training did not count them."""
        return counted_by(self.state) if self.counted else None

    @property
    def is_there(self) -> bool:
        """Whether nobody has removed it meanwhile."""
        return (self.path / run_folder.CONFIG).exists()


def counted_by(state: Mapping[str, Any]) -> int | None:
    """The tokens that a state of Trainer's says were trained on; None where it names no number."""
    tokens = state.get("num_input_tokens_seen")
    return tokens if type(tokens) is int and 0 <= tokens < 2**53 else None


@dataclass(frozen=True)
class ForeignRun(Run):
    """Checkpoints of one model in order, read as a run is.

    Attributes:
        path: what they have in common: Trainer's output folder, a model's folder.
        found: name and folder of each.
        told: a `lineage.json` to go by instead of what the checkpoints say.
        numbered: whether steps are mere numbers, as neither names nor states of training tell them.
        watch: told (done, in all) of checkpoints that layers are followed through.
    """

    found: tuple[tuple[CheckpointName, Path], ...] = ()
    told: Path | None = None
    numbered: bool = False
    watch: Watch = field(default=lambda done, total: None, repr=False, compare=False)

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
    def held_out(self) -> Path:
        """The file of held-out blocks that GrowthCallback keeps."""
        return self.path / run_folder.GROWTH / run_folder.PROBE

    @property
    def lineage(self) -> Lineage:
        """Every layer and event so far."""
        return self.checkpoints[-1].lineage

    @property
    def beginning(self) -> Lineage:
        """Who sat where when training began, as far as the lineage tells."""
        return self.lineage.as_of(0)

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The usable checkpoints in order, each with its lineage. Raises BadInput when there is none."""
        counted = any(counted_by(bare.state) for bare in self._bare)
        lineages = zip(self._bare, self._lineages, strict=True)
        return [replace(bare, known=lineage, counted=counted) for bare, lineage in lineages]

    @cached_property
    def inferred(self) -> Inferred | None:
        """The lineage that was found by weights, and how sure it is; None where it was told."""
        return infer(self._bare, self.watch) if self.told is None and self._written is None else None

    @property
    def confidence(self) -> pd.DataFrame | None:
        """How sure each match is, see `pli_analysis.others.inferred.Inferred`; None where the lineage was told."""
        return None if self.inferred is None else self.inferred.confidence

    @property
    def notes(self) -> list[str]:
        """What whoever reads a table of it should know, a line each."""
        lines = ["steps are numbers in the order given: no name and no trainer_state.json tells them"] * self.numbered
        if line := trainer_log.broken({str(checkpoint.name): checkpoint.state for checkpoint in self.checkpoints}):
            lines.append(line)
        if (table := self.confidence) is None:
            return [*lines, *self._lacks()]
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
        return trainer_log.read(self.path, [checkpoint.state for checkpoint in self.checkpoints])

    @cached_property
    def _bare(self) -> list[ForeignCheckpoint]:
        """The usable checkpoints in order, each state once."""
        if not self._usable:
            raise BadInput(f"{self.path}: holds no checkpoint to read" + "".join(f"; {line}" for line in self.damaged))
        _log.debug("%s: %d checkpoints of others, %d passed over", self.path, len(self._usable), len(self.damaged))
        found: dict[CheckpointName, ForeignCheckpoint] = {}
        for checkpoint in self._usable:
            name = self._side(checkpoint)
            found.setdefault(name, checkpoint if name == checkpoint.name else replace(checkpoint, name=name))
        return [found[name] for name in sorted(found, key=lambda name: (name.step, name.after))]

    def _side(self, checkpoint: Checkpoint) -> CheckpointName:
        """The name of a checkpoint, which says on which side of its step's events it is.

        Trainer calls a checkpoint after its step alone. Where others have events of that step that it has not, it is of
        the state before them.
        """
        told = self._written or {}
        grown = {event.step for lineage in told.values() for event in lineage.events}
        if checkpoint.step in grown and all(event.step < checkpoint.step for event in told[checkpoint.path].events):
            return CheckpointName(checkpoint.step, after=False)
        return checkpoint.name

    @cached_property
    def _usable(self) -> list[ForeignCheckpoint]:
        return [ForeignCheckpoint(name, path) for name, path in self.found if flaw(path) is None]

    @cached_property
    def _written(self) -> dict[Path, Lineage] | None:
        """The lineage that each checkpoint has as a file, by its folder; None where one has none."""
        paths = [checkpoint.path for checkpoint in self._usable]
        if not all((path / run_folder.LINEAGE).is_file() for path in paths):
            return None
        return {path: _read(path / run_folder.LINEAGE) for path in paths}

    @cached_property
    def _lineages(self) -> list[Lineage]:
        if self.inferred is not None:
            return self.inferred.lineages
        if self.told is not None:
            whole = _read(self.told)
            places = [(bare.step, bare.name.after) for bare in self._bare]
            return [whole.as_of(sum((event.step, True) <= place for event in whole.events)) for place in places]
        each = [(self._written or {})[bare.path] for bare in self._bare]
        for bare, lineage in zip(self._bare, each, strict=True):
            if lineage.to_json() != each[-1].as_of(len(lineage.events)).to_json():
                last = self._bare[-1].name
                raise BadInput(f"{bare.path}: its {run_folder.LINEAGE} tells of another history than {last}'s")
        return each

    def _lacks(self) -> list[str]:
        """What a lineage tells of that no checkpoint has: birth weights, and states around events."""
        first: dict[tuple[str, int], int] = {}
        for checkpoint in self.checkpoints:
            for id in checkpoint.lineage.stack:
                for part in _births(checkpoint.lineage, id):
                    first.setdefault(part, checkpoint.step)
        late = [(step, part, born) for (part, born), step in first.items() if step > born]
        lines = []
        for step in dict.fromkeys(step for step, *_ in late):
            told = ", ".join(f"{part} (born at step {born})" for at, part, born in late if at == step)
            lines.append(f"birth weights first seen at step {step}, drift counts from there: {told}")
        sides = {(checkpoint.step, checkpoint.name.after) for checkpoint in self.checkpoints}
        grown = dict.fromkeys(event.step for event in self.lineage.events)
        if gone := [str(step) for step in grown if not sides >= {(step, False), (step, True)}]:
            steps = ", ".join(gone[:8]) + (", …" if len(gone) > 8 else "")
            lines.append(f"no states right before and after step {steps}: what these events changed is not measured")
        return lines


def _births(lineage: Lineage, id: str) -> list[tuple[str, int]]:
    """What of a layer was born together, and at which step: itself, heads and FFN units that came later."""
    layer, found = lineage.layers[id], [(id, lineage.layers[id].birth.step)]
    found += [(f"heads of {id}", head.step) for head in layer.heads.values() if head.event != layer.birth.event]
    later = [event for event in layer.widths if event and event != layer.birth.event]
    return found + [(f"FFN units of {id}", lineage.events[event - 1].step) for event in later]


def _read(path: Path) -> Lineage:
    try:
        return Lineage.read(path)
    except BadLineage as error:
        raise BadInput(str(error)) from None


# --- finding them ----------------------------------------------------------------------------------------------------


def open_foreign(
    paths: Sequence[Path], told: Path | None = None, watch: Watch = lambda done, total: None
) -> ForeignRun:
    """Open a folder of Trainer's, a model folder, or several checkpoint folders.

    Args:
        paths: one output folder, or checkpoint folders in order.
        told: a `lineage.json` to go by.
        watch: told (done, in all) of checkpoints that layers are followed through.

    Raises:
        BadInput: when there is nothing of the kind.
    """
    for path in paths:
        if not path.is_dir():
            raise BadInput(f"{path}: no such folder")
    if len(paths) == 1:
        inside = _inside(paths[0])
        if inside:
            return ForeignRun(paths[0], found=tuple(inside), told=told, watch=watch)
        if not is_model(paths[0]):
            raise BadInput(f"{paths[0]}: not a run, it holds no {run_folder.RUN}, and no checkpoints of a model either")
    for path in paths:
        if (path / run_folder.RUN).is_file() and len(paths) > 1:
            raise BadInput(f"{path}: is a run, and several arguments are checkpoints of one: name it alone")
        if found := flaw(path):
            raise BadInput(f"{path}: {found}")
    named, numbered = _named(paths)
    return ForeignRun(_root(paths), found=tuple(named), told=told, numbered=numbered, watch=watch)


def _inside(output: Path) -> list[tuple[CheckpointName, Path]]:
    """The checkpoints in a folder of Trainer's: those of GrowthCallback first, which say more, then Trainer's own."""
    growth = output / run_folder.GROWTH
    kept = run_folder.checkpoints(growth) if growth.is_dir() and not growth.is_symlink() else []
    return [*kept, *run_folder.checkpoints(output)]


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
    """Checkpoints in the order of their steps; where not each has one of its own, numbered in the order given.

    Numbers are no less than the step of the last event in a checkpoint's lineage, as a model that `pli-train export`
    made has one.
    """
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
    told, number = list[tuple[Label, Path]](), -1
    for name, label, path in zip(names, labels, paths, strict=True):
        number = max(number + 1, _last_event(path))
        place = CheckpointName(number) if numbered or name is None else name
        told.append((Label(place.step, place.after, label), path))
    told.sort(key=lambda one: (one[0].step, one[0].after))
    return [*told], numbered and len(paths) > 1


def _step_of(checkpoint: Path) -> CheckpointName | None:
    state = checkpoint / run_folder.TRAINER_STATE
    step = run_folder.read_json(state).get("global_step") if state.is_file() else None
    return CheckpointName(step) if type(step) is int and 0 <= step < 2**53 else None


def _last_event(checkpoint: Path) -> int:
    """The step of the last event that a checkpoint has behind it, as far as its lineage tells: it cannot be earlier."""
    path = checkpoint / run_folder.LINEAGE
    events = _read(path).events if path.is_file() else []
    return events[-1].step if events else 0


def _root(paths: Sequence[Path]) -> Path:
    return paths[0] if len(paths) == 1 else Path(commonpath([path.resolve() for path in paths]))
