"""Checkpoints that `pli-train` did not write: Trainer output, model folders.

They have no manifest and usually no lineage; the lineage is inferred from weights (`inferred`) or given by the user.
They are read with the same precautions as a run: safetensors only, no links, no path outside the folder.

In an inferred lineage the birth of a part is the first checkpoint that has it. A lineage that GrowthCallback wrote into
each checkpoint, or that the user gives, is used unchanged. Birth weights are always those of the first checkpoint that
has a part, which may be later than its birth.
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
from pli_analysis.runs.inferred_lineage import Inferred, infer
from pli_analysis.runs.model_folders import flaw
from pli_analysis.runs.run import ProgressCallback, Run
from pli_analysis.runs.step_names import LINK, link_line
from pli_analysis.runs.weight_comparison import weights_of
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
"""Maximum number of tokens in a block of text if the block size of training is unknown."""
MASKED_SHARE = 0.15
"""Share of masked tokens: that of Devlin et al. 2018, and the default of Hugging Face's collator."""


@dataclass(frozen=True, order=True)
class Label(CheckpointName):
    """The name of a checkpoint whose folder is not named `checkpoint-STEP`."""

    label: str = ""

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class ForeignCheckpoint(Checkpoint):
    """A checkpoint written by another library. Its `trainer_state.json` may be missing, or be of another training.

    Attributes:
        counts_tokens: whether training counted tokens, which is optional in Trainer.
    """

    counts_tokens: bool = False

    @cached_property
    def state(self) -> dict[str, Any]:
        """The `trainer_state.json` of Trainer; empty if missing, unreadable or of another step."""
        return trainer_log.state_of(self.path)

    @cached_property
    def tokens(self) -> int | None:
        """Number of tokens trained on so far; None if training did not count them."""
        return counted_by(self.state) if self.counts_tokens else None

    @property
    def is_there(self) -> bool:
        """Whether the folder still exists."""
        return (self.path / run_folder.CONFIG).exists()


def counted_by(state: Mapping[str, Any]) -> int | None:
    """Return the number of tokens trained on by a state of Trainer; None if it has no valid number."""
    tokens = state.get("num_input_tokens_seen")
    return tokens if type(tokens) is int and 0 <= tokens < 2**53 else None


@dataclass(frozen=True)
class ForeignRun(Run):
    """Checkpoints of one model in order, with the interface of a run.

    Attributes:
        path: their common folder: Trainer's output, or a model's folder.
        found: name and folder of each checkpoint.
        lineage_file: a `lineage.json` to use instead of those in the checkpoints.
        linked: links to folders named by steps, which are passed over.
        counted: note on the unit of steps if they are not optimizer updates; else empty.
        on_progress: called with (done, total) checkpoints while layers are followed through them.
        stack: path of the list of layers to read if there are several; by default the one in the lineage, or else the
            one with most weights.
    """

    found: tuple[tuple[CheckpointName, Path], ...] = ()
    lineage_file: Path | None = None
    linked: tuple[Path, ...] = ()
    counted: str = ""
    on_progress: ProgressCallback = field(default=lambda done, total: None, repr=False, compare=False)
    stack: str | None = None

    @cached_property
    def record(self) -> dict[str, Any]:
        """The known part of what `run.json` holds for a run."""
        steps = self.checkpoints[-1].state.get("max_steps")
        return {"total_steps": steps} if type(steps) is int and 0 < steps < 2**53 else {}

    @cached_property
    def layers_at(self) -> str | None:
        """Path of the list of layers: `stack`, or the path that growth from Python recorded in the lineage, if any."""
        folders = [path / run_folder.LINEAGE for _, path in reversed(self.found)]
        files = [self.lineage_file] if self.lineage_file else folders
        if self.stack is not None or not (existing := [file for file in files if file.is_file()]):
            return self.stack
        try:
            return Lineage.read(existing[0]).stack_path
        except BadInput:  # reported when the checkpoint is read
            return None

    @property
    def training(self) -> dict[str, Any]:
        """Assumed training settings for cutting a text into blocks, as none are recorded."""
        last = self.checkpoints[-1]
        positions = last.anatomy.positions(last.config)
        length = min(positions, TEXT_BLOCK) if isinstance(positions, int) and positions > 0 else TEXT_BLOCK
        return {"block_size": length, "mlm_probability": MASKED_SHARE}

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer: the last checkpoint's, or else its parent."""
        folders = (self.checkpoints[-1].path, self.path)
        return next((folder for folder in folders if tokenizer.files_of(folder)), folders[0])

    @property
    def held_out(self) -> Path:
        """The file of held-out blocks that GrowthCallback writes."""
        return self.path / run_folder.GROWTH / run_folder.PROBE

    @property
    def lineage(self) -> Lineage:
        """Every layer and event so far."""
        return self.checkpoints[-1].lineage

    @property
    def beginning(self) -> Lineage:
        """The lineage at step 0: layer ids by index when training began."""
        return self.lineage.as_of(0)

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The readable checkpoints in order, each with its lineage. Raises BadInput if there is none."""
        counting = any(counted_by(checkpoint.state) for checkpoint in self._without_lineage)
        lineages = zip(self._without_lineage, self._lineages, strict=True)
        return [
            replace(checkpoint, known=lineage, counts_tokens=counting, lineage_file=self.lineage_file)
            for checkpoint, lineage in lineages
        ]

    @cached_property
    def inferred(self) -> Inferred | None:
        """The lineage inferred from weights, with its confidence; None if the lineage is given.

        If some checkpoints have a `lineage.json`, only those after the last of them are inferred.
        """
        if self.lineage_file is not None:
            return None
        last = self._last_recorded
        if last is None:
            return infer(self._without_lineage, self.on_progress)
        tail = self._without_lineage[last:]
        return infer(tail, self.on_progress, self._recorded[tail[0].path]) if len(tail) > 1 else None

    @property
    def confidence(self) -> pd.DataFrame | None:
        """Confidence of each match, see `Inferred`; None if the lineage is given."""
        return None if self.inferred is None else self.inferred.confidence

    @property
    def notes(self) -> list[str]:
        """Remarks for the reader of measurements, one line each."""
        lines = [self.counted] if self.counted else []
        lines += self.checkpoints[-1].layout.notes
        lines += odd_weights.lines(self.checkpoints)
        lines += trainer_log.lines_of_states([path for path, reason in self._flaws.items() if reason != LINK])
        lines += self._unrecorded()
        if line := trainer_log.broken({str(checkpoint.name): checkpoint.state for checkpoint in self.checkpoints}):
            lines.append(line)
        if self._recorded or self.lineage_file is not None:
            lines += self._unmeasured()
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
        """One line for each checkpoint folder that cannot be read."""
        lines = [f"{path.name}: {reason}" for path, reason in self._flaws.items() if reason]
        return [*lines, *(link_line(path.name) for path in self.linked)]

    @cached_property
    def scalars(self) -> Scalars:
        """The scalars that Trainer logged, if any."""
        return trainer_log.read(self.path, [checkpoint.state for checkpoint in self.checkpoints])

    @cached_property
    def _without_lineage(self) -> list[ForeignCheckpoint]:
        """The readable checkpoints in order, without duplicates of a state, before their lineage is known."""
        if not self._usable:
            raise BadInput("; ".join([f"{self.path}: holds no readable checkpoint", *self._grouped_flaws]))
        _log.debug("%s: %d foreign checkpoints, %d passed over", self.path, len(self._usable), len(self.damaged))
        found: dict[CheckpointName, ForeignCheckpoint] = {}
        for checkpoint in self._usable:
            name = self._name_before_or_after(checkpoint)
            found.setdefault(name, checkpoint if name == checkpoint.name else replace(checkpoint, name=name))
        usable = [found[name] for name in sorted(found, key=lambda name: (name.step, name.after))]
        first = usable[0].anatomy  # the same stack at all checkpoints, even if another stack becomes larger
        if self.layers_at is None and (first.stacks or first.by_name):
            usable = [replace(one, stack=first.stack) for one in usable]
        return usable

    def _name_before_or_after(self, checkpoint: Checkpoint) -> CheckpointName:
        """Return the name of a checkpoint, with the information whether it is before or after the events of its step.

        Trainer names a checkpoint only by its step. If other checkpoints have events of that step that this one does
        not have, it is the state before them.
        """
        whole = max(self._recorded.values(), key=lambda lineage: len(lineage.events), default=None)
        if whole is None or checkpoint.step not in {event.step for event in whole.events}:
            return checkpoint.name
        if (own := self._recorded.get(checkpoint.path)) is not None:
            is_before = all(event.step < checkpoint.step for event in own.events)
        else:  # decided by the number of layers, if the events of that step change it
            before, after = (whole.as_of(_events_until(whole, checkpoint.step, side)).stack for side in (False, True))
            depth = len({index for index, *_ in checkpoint.located})
            is_before = len(before) != len(after) and depth == len(before)
        return CheckpointName(checkpoint.step, after=False) if is_before else checkpoint.name

    @cached_property
    def _usable(self) -> list[ForeignCheckpoint]:
        """The checkpoints without a flaw, in the order of `found`."""
        return [self._checkpoint(name, path) for name, path in self.found if self._flaws[path] is None]

    @cached_property
    def _recorded(self) -> dict[Path, Lineage]:
        """Checkpoint folder → its `lineage.json`; only folders that have one."""
        files = [checkpoint.path / run_folder.LINEAGE for checkpoint in self._usable]
        return {file.parent: Lineage.read(file) for file in files if file.is_file()}

    @property
    def _last_recorded(self) -> int | None:
        """Index of the last checkpoint that has a `lineage.json`; None if none has."""
        with_file = (n for n, checkpoint in enumerate(self._without_lineage) if checkpoint.path in self._recorded)
        return max(with_file, default=None)

    def _unrecorded(self) -> list[str]:
        """Return notes on checkpoints without a `lineage.json` if others have one."""
        last = self._last_recorded
        if last is None or self.lineage_file is not None:
            return []
        checkpoints = self._without_lineage
        early = [str(checkpoint.name) for checkpoint in checkpoints[:last] if checkpoint.path not in self._recorded]
        late = [str(checkpoint.name) for checkpoint in checkpoints[last + 1 :]]
        lines = []
        if early:
            lines.append(f"no {run_folder.LINEAGE} in {some(early)}: lineage taken from later checkpoints")
        if late:
            known = checkpoints[last].name
            lines.append(f"no {run_folder.LINEAGE} in {some(late)}: lineage after {known} inferred from weights")
        return lines

    @property
    def _grouped_flaws(self) -> list[str]:
        """The lines of `damaged`, one for all checkpoints with the same reason."""
        by_reason: dict[str, list[str]] = {}
        for path, reason in self._flaws.items():
            by_reason.setdefault(reason or "", []).append(path.name)
        return [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]

    def _checkpoint(self, name: CheckpointName, path: Path) -> ForeignCheckpoint:
        return ForeignCheckpoint(name, path, foreign=True, stack=self.layers_at)

    @cached_property
    def _flaws(self) -> dict[Path, str | None]:
        """Checkpoint folder → why it cannot be read; None if it can."""
        flaws = {path: flaw(path) for _, path in self.found}
        whole = [path for path, reason in flaws.items() if not reason]
        has_lineage = self.lineage_file is not None or all((path / run_folder.LINEAGE).exists() for path in whole)
        checkpoints = {path: self._checkpoint(name, path) for name, path in self.found}
        return {path: reason or unusable(checkpoints[path], has_lineage) for path, reason in flaws.items()}

    @cached_property
    def _lineages(self) -> list[Lineage]:
        """The lineage of each checkpoint. Raises BadInput if those in the checkpoints contradict each other."""
        checkpoints = self._without_lineage
        if self.lineage_file is not None:
            whole = Lineage.read(self.lineage_file)
            return [whole.as_of(_events_until(whole, each.step, each.name.after)) for each in checkpoints]
        inferred = [] if self.inferred is None else self.inferred.lineages
        if self._last_recorded is None:
            return inferred
        lineages, later = list[Lineage](), self._recorded[checkpoints[self._last_recorded].path]
        for checkpoint in reversed(checkpoints[: self._last_recorded + 1]):
            own = self._recorded.get(checkpoint.path)
            later = later.as_of(_events_until(later, checkpoint.step, checkpoint.name.after)) if own is None else own
            lineages.insert(0, later)
        lineages += inferred[1:]  # the first inferred lineage is the last recorded one
        for checkpoint, lineage in zip(checkpoints, lineages, strict=True):
            if lineage.to_json() != lineages[-1].as_of(len(lineage.events)).to_json():
                last = checkpoints[-1].name
                raise BadInput(
                    f"{checkpoint.path / run_folder.LINEAGE}: events differ from those of {last}; "
                    "give checkpoints of one training"
                )
        return lineages

    def _unmeasured(self) -> list[str]:
        """Return notes on what no checkpoint holds: weights at birth, and the states right before and after events."""
        first: dict[tuple[str, int], int] = {}
        for checkpoint in self.checkpoints:
            for id in checkpoint.lineage.stack:
                for part in _births(checkpoint.lineage, id):
                    first.setdefault(part, checkpoint.step)
        late = [(step, part, born) for (part, born), step in first.items() if step > born]
        lines = []
        for step in dict.fromkeys(step for step, *_ in late):
            parts = ", ".join(f"{part} (born at step {born})" for at, part, born in late if at == step)
            lines.append(f"no checkpoint at birth, drift is measured from step {step}: {parts}")
        sides = {(checkpoint.step, checkpoint.name.after) for checkpoint in self.checkpoints}
        event_steps = dict.fromkeys(event.step for event in self.lineage.events)
        if missing := [str(step) for step in event_steps if not sides >= {(step, False), (step, True)}]:
            steps = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
            lines.append(f"no checkpoints right before and after step {steps}: these events are not measured")
        return lines


def _events_until(lineage: Lineage, step: int, after: bool) -> int:
    """Return the number of events up to a step, with those of the step itself if `after`."""
    return sum((event.step, True) <= (step, after) for event in lineage.events)


def _births(lineage: Lineage, id: str) -> list[tuple[str, int]]:
    """Return (part, birth step) of a layer, and of the heads and FFN units that were added to it later."""
    layer, births = lineage.layers[id], [(id, lineage.layers[id].birth.step)]
    births += [(f"heads of {id}", head.step) for head in layer.heads.values() if head.event != layer.birth.event]
    later = [event for event in layer.widths if event and event != layer.birth.event]
    return births + [(f"FFN units of {id}", lineage.events[event - 1].step) for event in later]


def unusable(checkpoint: Checkpoint, has_lineage: bool) -> str | None:
    """Explain in one line why a checkpoint whose files are all present cannot be read; None if it can.

    Args:
        checkpoint: its lineage is not known yet.
        has_lineage: whether the lineage is given by files, so that layers need not be matched by weights.
    """
    try:
        _ = checkpoint.config, checkpoint.state, checkpoint.tokens, checkpoint.files
        if (checkpoint.path / run_folder.LINEAGE).exists():
            _ = checkpoint.lineage
        if reason := odd_weights.no_weights(checkpoint):
            return reason
        if not has_lineage:
            weights_of(checkpoint)
    except BadInput as error:
        return checkpoint.within(error)
    return None
