"""A run folder: its checkpoints, lineage and scalars, read on first use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis.runs.checkpoint import Checkpoint
from pli_train.core import plugins
from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.core.run_format.run_folder import CheckpointName

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.scalars.reading import Scalars

_log = logging.getLogger(__name__)

ProgressCallback = Callable[[int, int], None]
"""Called with (done, total) during long work."""


@dataclass(frozen=True)
class Run:
    """A run folder, opened with `pli_analysis.open_run`.

    Attributes:
        path: of the folder.
        hashes: whether to check every file of a checkpoint against its SHA-256, not only its size.
    """

    path: Path
    hashes: bool = False

    @cached_property
    def record(self) -> dict[str, Any]:
        """`run.json`: resolved config, versions, seed, command."""
        return run_folder.read_record(self.path)

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.path.resolve().name

    @property
    def training(self) -> dict[str, Any]:
        """The `train` section of its config."""
        return self.section("train")

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of its config; empty if there is none."""
        config = self.record.get("config", {})
        section = config.get(name, {}) if isinstance(config, dict) else {}
        return section if isinstance(section, dict) else {}

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer."""
        return self.path / run_folder.TOKENIZER

    @property
    def held_out(self) -> Path:
        """The file of held-out blocks, whether or not there is one."""
        return self.path / run_folder.PROBE

    @property
    def beginning(self) -> Lineage:
        """The lineage at the first checkpoint: layer ids by index when the run began."""
        return self.checkpoints[0].lineage

    @property
    def confidence(self) -> pd.DataFrame | None:
        """Confidence of an inferred lineage; None for a recorded one."""
        return None

    @property
    def notes(self) -> list[str]:
        """Remarks for the reader of measurements, one line each."""
        try:
            return plugins.missing(self.record.get("plugins"))
        except BadInput:  # a run can be measured without its record
            return []

    @property
    def parent(self) -> dict[str, Any] | None:
        """`path`, `checkpoint` and `name` of the run that the first weights come from; None if there is none."""
        parent = self.record.get("parent")
        return parent if isinstance(parent, dict) else None

    @cached_property
    def lineage(self) -> Lineage:
        """Every layer and event so far."""
        path = self.path / run_folder.LINEAGE
        if not path.is_file():
            raise BadInput(f"{self.path}: has no {run_folder.LINEAGE} yet; it is written with the first checkpoint")
        lineage = Lineage.read(path)
        _log.debug("%s: %d layers, %d events", path, len(lineage.layers), len(lineage.events))
        return lineage

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The whole checkpoints, in order. Raises BadInput if there is none."""
        whole = [checkpoint for checkpoint, flaw in self._checked if flaw is None]
        if not whole:
            raise BadInput(f"{self.path}: holds no whole checkpoint" + "".join(f"; {line}" for line in self.damaged))
        _log.debug("%s: %d whole checkpoints, %d passed over", self.path, len(whole), len(self.damaged))
        return whole

    @cached_property
    def states(self) -> dict[int, Checkpoint]:
        """Step → the checkpoint after its events, in order. Raises BadInput if there is none."""
        return {checkpoint.step: checkpoint for checkpoint in self.checkpoints}

    def at(self, step: int | CheckpointName | None) -> Checkpoint:
        """Return the checkpoint of a step after its events, the named one, or the last. Raises BadInput if none is."""
        if step is None:
            return self.checkpoints[-1]
        if isinstance(step, CheckpointName):
            named = {checkpoint.name: checkpoint for checkpoint in self.checkpoints}
            if step not in named:
                raise BadInput(f"{self.path}: has no checkpoint {step}")
            return named[step]
        if step not in self.states:
            nearest = min(self.states, key=lambda other: abs(other - step))
            raise BadInput(f"{self.path}: has no checkpoint of step {step}; the nearest is of step {nearest}")
        return self.states[step]

    @cached_property
    def damaged(self) -> list[str]:
        """One line for each checkpoint folder that cannot be used."""
        return [f"{checkpoint.path.name}: {flaw}" for checkpoint, flaw in self._checked if flaw]

    @cached_property
    def _checked(self) -> list[tuple[Checkpoint, str | None]]:
        """Every checkpoint, and why it cannot be used; None if it can."""
        listed = [(Checkpoint(name, path), flaw) for name, path, flaw in self.folders]
        return [(checkpoint, flaw or checkpoint.flaw) for checkpoint, flaw in listed]

    @cached_property
    def folders(self) -> list[tuple[CheckpointName, Path, str | None]]:
        """Name and folder of every checkpoint, and how its files differ from its manifest; None if they do not."""
        return [(name, path, run_folder.flaw(path, self.hashes)) for name, path in run_folder.checkpoints(self.path)]

    @cached_property
    def scalars(self) -> Scalars:
        """The scalars that training logged."""
        from pli_analysis.scalars.reading import read

        return read(self.path)
