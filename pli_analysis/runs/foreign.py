"""Checkpoints that `pli-train` did not write: Trainer output, model folders.

They have no manifest, and mostly no lineage: that is inferred from weights (`inferred`), or told by the user. What is
read of them is read as suspiciously as a run: safetensors only, no links, no path out of the folder.

Where no lineage is written, a part counts as born at the first checkpoint that has it. One that GrowthCallback wrote
into each checkpoint, or the user gives, stands as it is: who was born when, from whom, and where. Birth weights are
always those of the first checkpoint that has a part, which may lie later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis import columns as col
from pli_analysis.runs import odd_weights
from pli_analysis.runs.checkpoint import Checkpoint
from pli_analysis.runs.inferred_lineage import Inferred, infer, weights_of
from pli_analysis.runs.model_folders import flaw
from pli_analysis.runs.run import ProgressCallback, Run
from pli_analysis.runs.step_names import LINK, link_line
from pli_analysis.scalars import trainer_log
from pli_train.core import tokenizer
from pli_train.core.errors import BadInput, some
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars.reading import Scalars

_log = logging.getLogger(__name__)
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
        counts_tokens: whether training counted tokens, as Trainer does when asked to.
    """

    counts_tokens: bool = False

    @cached_property
    def state(self) -> dict[str, Any]:
        """How far training was, in Hugging Face's words; empty where no file tells, or one of another step."""
        return trainer_log.state_of(self.path)

    @cached_property
    def tokens(self) -> int | None:
        """Tokens trained on so far; None where training did not count them."""
        return counted_by(self.state) if self.counts_tokens else None

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
        lineage_file: a `lineage.json` to go by instead of what the checkpoints say.
        linked: folders that are named by steps, and left out as they are links.
        counted: what steps are where they are no updates, and how that is known; empty where they are.
        on_progress: told (done, in all) of checkpoints that layers are followed through.
        stack: path of the list of layers to read, where there are several; that with most weights if None.
    """

    found: tuple[tuple[CheckpointName, Path], ...] = ()
    lineage_file: Path | None = None
    linked: tuple[Path, ...] = ()
    counted: str = ""
    on_progress: ProgressCallback = field(default=lambda done, total: None, repr=False, compare=False)
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
        return next((folder for folder in folders if tokenizer.files_of(folder)), folders[0])

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
        counting = any(counted_by(bare.state) for bare in self._bare)
        lineages = zip(self._bare, self._lineages, strict=True)
        return [
            replace(bare, known=lineage, counts_tokens=counting, lineage_file=self.lineage_file)
            for bare, lineage in lineages
        ]

    @cached_property
    def inferred(self) -> Inferred | None:
        """The lineage that was found by weights, and how sure it is; None where it was told.

        Where some checkpoints have a lineage as a file, it begins with the last of these.
        """
        if self.lineage_file is not None:
            return None
        last = self._last_recorded
        if last is None:
            return infer(self._bare, self.on_progress)
        tail = self._bare[last:]
        return infer(tail, self.on_progress, self._recorded[tail[0].path]) if len(tail) > 1 else None

    @property
    def confidence(self) -> pd.DataFrame | None:
        """How sure each match is, see `Inferred`; None where the lineage was told."""
        return None if self.inferred is None else self.inferred.confidence

    @property
    def notes(self) -> list[str]:
        """What whoever reads a table of it should know, a line each."""
        lines = [self.counted] if self.counted else []
        lines += self.checkpoints[-1].layout.notes
        lines += odd_weights.lines(self.checkpoints)
        lines += trainer_log.lines_of_states([path for path, message in self._flaws.items() if message != LINK])
        lines += self._unrecorded()
        if line := trainer_log.broken({str(checkpoint.name): checkpoint.state for checkpoint in self.checkpoints}):
            lines.append(line)
        if self._recorded or self.lineage_file is not None:
            lines += self._lacks()
        if (table := self.confidence) is None or not len(table):
            return lines
        least = table.loc[table[col.CONFIDENCE].idxmin()]
        return [
            *lines,
            f"lineage inferred from weights; lowest confidence {least[col.CONFIDENCE]:.2f} at {least[col.CHECKPOINT]}; "
            "see pli-analyze lineage --confidence",
        ]

    @property
    def damaged(self) -> list[str]:
        """One line for each checkpoint folder that cannot be used."""
        lines = [f"{path.name} {message}" for path, message in self._flaws.items() if message]
        return [*lines, *(link_line(path.name) for path in self.linked)]

    @cached_property
    def scalars(self) -> Scalars:
        """What Trainer logged, as far as it is there."""
        return trainer_log.read(self.path, [checkpoint.state for checkpoint in self.checkpoints])

    @cached_property
    def _bare(self) -> list[ForeignCheckpoint]:
        """The usable checkpoints in order, each state once."""
        if not self._usable:
            raise BadInput(f"{self.path}: holds no checkpoint to read" + "".join(f"; {line}" for line in self._alike))
        _log.debug("%s: %d checkpoints of others, %d passed over", self.path, len(self._usable), len(self.damaged))
        found: dict[CheckpointName, ForeignCheckpoint] = {}
        for checkpoint in self._usable:
            name = self._side(checkpoint)
            found.setdefault(name, checkpoint if name == checkpoint.name else replace(checkpoint, name=name))
        usable = [found[name] for name in sorted(found, key=lambda name: (name.step, name.after))]
        first = usable[0].anatomy  # the same stack at all of them, even if another one outgrows it
        if self.stack is None and (first.stacks or first.by_name):
            usable = [replace(one, stack=first.stack) for one in usable]
        return usable

    def _side(self, checkpoint: Checkpoint) -> CheckpointName:
        """The name of a checkpoint, which says on which side of its step's events it is.

        Trainer calls a checkpoint after its step alone. Where others have events of that step that it has not, it is of
        the state before them.
        """
        whole = max(self._recorded.values(), key=lambda lineage: len(lineage.events), default=None)
        if whole is None or checkpoint.step not in {event.step for event in whole.events}:
            return checkpoint.name
        if (mine := self._recorded.get(checkpoint.path)) is not None:
            is_before = all(event.step < checkpoint.step for event in mine.events)
        else:  # its layers tell, where the events of that step change their number
            before, after = (whole.as_of(_events_until(whole, checkpoint.step, side)).stack for side in (False, True))
            depth = len({index for index, *_ in checkpoint.located})
            is_before = len(before) != len(after) and depth == len(before)
        return CheckpointName(checkpoint.step, after=False) if is_before else checkpoint.name

    @cached_property
    def _usable(self) -> list[ForeignCheckpoint]:
        return [self._checkpoint(name, path) for name, path in self.found if self._flaws[path] is None]

    @cached_property
    def _recorded(self) -> dict[Path, Lineage]:
        """The lineage that a checkpoint has as a file, by its folder; without those that have none."""
        files = [checkpoint.path / run_folder.LINEAGE for checkpoint in self._usable]
        return {file.parent: Lineage.read(file) for file in files if file.is_file()}

    @property
    def _last_recorded(self) -> int | None:
        """Which checkpoint is the last that has a lineage as a file; None where none has."""
        return max((n for n, bare in enumerate(self._bare) if bare.path in self._recorded), default=None)

    def _unrecorded(self) -> list[str]:
        """A line for the checkpoints that have no lineage where others have one."""
        last = self._last_recorded
        if last is None or self.lineage_file is not None:
            return []
        early = [str(bare.name) for bare in self._bare[:last] if bare.path not in self._recorded]
        late = [str(bare.name) for bare in self._bare[last + 1 :]]
        lines = []
        if early:
            lines.append(f"no {run_folder.LINEAGE} in {some(early)}: later checkpoints hold their history")
        if late:
            known = self._bare[last].name
            lines.append(f"no {run_folder.LINEAGE} in {some(late)}: inferred from weights, from {known} on")
        return lines

    @property
    def _alike(self) -> list[str]:
        """The lines of `damaged`, those of one reason together."""
        alike: dict[str, list[str]] = {}
        for path, message in self._flaws.items():
            alike.setdefault(message or "", []).append(path.name)
        return [f"{', '.join(names)}{':' if len(names) > 1 else ''} {message}" for message, names in alike.items()]

    def _checkpoint(self, name: CheckpointName, path: Path) -> ForeignCheckpoint:
        return ForeignCheckpoint(name, path, foreign=True, stack=self.stack)

    @cached_property
    def _flaws(self) -> dict[Path, str | None]:
        """Folder → what keeps it from being used."""
        flaws = {path: flaw(path) for _, path in self.found}
        whole = [path for path, reason in flaws.items() if not reason]
        is_written = self.lineage_file is not None or all((path / run_folder.LINEAGE).exists() for path in whole)
        checkpoints = {path: self._checkpoint(name, path) for name, path in self.found}
        return {path: reason or unusable(checkpoints[path], is_written) for path, reason in flaws.items()}

    @cached_property
    def _lineages(self) -> list[Lineage]:
        if self.lineage_file is not None:
            whole = Lineage.read(self.lineage_file)
            return [whole.as_of(_events_until(whole, bare.step, bare.name.after)) for bare in self._bare]
        inferred = [] if self.inferred is None else self.inferred.lineages
        if self._last_recorded is None:
            return inferred
        each, later = list[Lineage](), self._recorded[self._bare[self._last_recorded].path]
        for bare in reversed(self._bare[: self._last_recorded + 1]):
            mine = self._recorded.get(bare.path)
            later = later.as_of(_events_until(later, bare.step, bare.name.after)) if mine is None else mine
            each.insert(0, later)
        each += inferred[1:]  # the first of these is the last that was told
        for bare, lineage in zip(self._bare, each, strict=True):
            if lineage.to_json() != each[-1].as_of(len(lineage.events)).to_json():
                last = self._bare[-1].name
                raise BadInput(f"{bare.path}: its {run_folder.LINEAGE} has another history than {last}'s")
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
            message = ", ".join(f"{part} (born at step {born})" for at, part, born in late if at == step)
            lines.append(f"birth weights first seen at step {step}, drift counts from there: {message}")
        sides = {(checkpoint.step, checkpoint.name.after) for checkpoint in self.checkpoints}
        grown = dict.fromkeys(event.step for event in self.lineage.events)
        if gone := [str(step) for step in grown if not sides >= {(step, False), (step, True)}]:
            steps = ", ".join(gone[:8]) + (", …" if len(gone) > 8 else "")
            lines.append(f"no states right before and after step {steps}: what these events changed is not measured")
        return lines


def _events_until(lineage: Lineage, step: int, after: bool) -> int:
    """How many events had happened at a step: those of the step itself too, or only those before it."""
    return sum((event.step, True) <= (step, after) for event in lineage.events)


def _births(lineage: Lineage, id: str) -> list[tuple[str, int]]:
    """What of a layer was born together, and at which step: itself, heads and FFN units that came later."""
    layer, found = lineage.layers[id], [(id, lineage.layers[id].birth.step)]
    found += [(f"heads of {id}", head.step) for head in layer.heads.values() if head.event != layer.birth.event]
    later = [event for event in layer.widths if event and event != layer.birth.event]
    return found + [(f"FFN units of {id}", lineage.events[event - 1].step) for event in later]


def unusable(checkpoint: Checkpoint, is_written: bool) -> str | None:
    """What keeps a checkpoint whose files are all there from being used, in a few words.

    Args:
        checkpoint: its lineage is not known yet.
        is_written: whether files tell the lineage, so that layers need not be found by their weights.
    """
    try:
        _ = checkpoint.config, checkpoint.state, checkpoint.tokens, checkpoint.files
        if (checkpoint.path / run_folder.LINEAGE).exists():
            _ = checkpoint.lineage
        if found := odd_weights.no_weights(checkpoint):
            return found
        if not is_written:
            weights_of(checkpoint)
    except BadInput as error:
        return f"cannot be used: {checkpoint.within(error)}"
    return None
