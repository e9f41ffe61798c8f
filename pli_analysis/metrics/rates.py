"""The learning rates of a run, as training logged them, added up over steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_train import run_folder

if TYPE_CHECKING:
    from pli_analysis.scalars import Scalars

NAN = float("nan")


class Rates:
    """The learning rates of a run as training logged them: in a straight line between logs, level outside them."""

    def __init__(self, scalars: Scalars) -> None:
        self._scalars = scalars
        self._known: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray] | None] = {}

    def between(self, layer: str, start: int, end: int) -> float:
        """The sum over the updates after `start` up to and with `end`; NaN when none were logged."""
        if layer not in self._known:
            self._known[layer] = self._of(layer)
        logged = self._known[layer]
        if logged is None:
            return NAN
        return self._until(end, *logged) - self._until(start, *logged)

    def _of(self, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        own = self._scalars.of(run_folder.LR_OF_LAYER + layer)
        logged = own if len(own.steps) else self._scalars.of(run_folder.LR)
        if not len(logged.steps):
            return None
        steps = np.concatenate([[0.0], logged.steps.astype(np.float64)])
        values = np.concatenate([logged.values[:1], logged.values]).astype(np.float64)
        widths = np.diff(steps)
        pieces = widths * (values[:-1] + values[1:]) / 2 + (values[1:] - values[:-1]) / 2
        return steps, values, np.concatenate([[0.0], np.cumsum(np.where(widths > 0, pieces, 0.0))])

    def _until(self, step: int, steps: np.ndarray, values: np.ndarray, sums: np.ndarray) -> float:
        """Σ of the rates of updates 1 to `step`: an arithmetic series from one log to the next."""
        at = int(np.searchsorted(steps, step, side="right")) - 1
        value = float(np.interp(step, steps, values))
        width = step - steps[at]
        return float(sums[at] + (width * (values[at] + value) / 2 + (value - values[at]) / 2 if width > 0 else 0.0))
