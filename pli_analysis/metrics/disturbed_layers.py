"""Layers around growth events, beside layers around steps without any: rows for `pli_analysis.metrics.disturbance`.

A layer has *components* at a step: what changed in it on the spot, and how its pace changed. Placebo steps have them
too, so that each component can be told in deviations of what is usual for this layer. A table of components has a row a
layer id and a column a component, NaN where it cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics import instant, placebo
from pli_analysis.metrics.movement import Mover, log_ratios
from pli_analysis.metrics.scene import Scene, distance
from pli_train import run_folder
from pli_train.anatomy.parts import Part

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.instant import Instant
    from pli_analysis.probe import Sample
    from pli_analysis.run import Checkpoint

INSTANT, DYNAMIC = ["forward", "cka", "gradient", "turned"], ["excess", "logged"]
ALL = [*INSTANT, *DYNAMIC]
COLUMNS = ["layer", "index", "distance", *INSTANT, "stretch", "speed_before", "speed_after", *DYNAMIC, "against"]
COLUMNS += [*(f"{name}_z" for name in ALL), "score", "p", "placebos"]
ENOUGH = 20
"""Placebos of a layer without which those of all layers are counted: fewer cannot give a p-value below 0.05."""


@dataclass(frozen=True)
class Layers:
    """The layers of a scene.

    Attributes:
        scene: the run and its twins.
        most: placebo steps at most.
        tokens: blocks for what is instant; None to leave that out.
        tick: called after each step that was examined.
    """

    scene: Scene
    most: int
    tokens: Sample | None
    tick: Callable[[], None]
    _compared: dict[tuple[str, str], Instant] = field(default_factory=dict)

    def instant(self, step: int) -> Instant | None:
        """What an event changed on the spot; None without a checkpoint before it, or without tokens."""
        first = self.scene.before(step)
        if self.tokens is None or first is None or not first.lineage.stack:
            return None
        return self._compare(first, self.scene.after(step))

    def rows(self, step: int) -> Iterator[dict[str, object]]:
        """What `COLUMNS` name, for each layer that was there before."""
        import pandas as pd

        seen, stretch = self.instant(step), self._stretch(step)
        own = self._of(seen, self.scene.mover, step, stretch)
        usual = self._usual(step, stretch, seen is not None)
        middle = usual.groupby(level="layer")[DYNAMIC].median()
        own[DYNAMIC] -= middle.reindex(own.index)
        usual[DYNAMIC] -= middle.reindex(usual.index, level="layer")
        against = self._hold_against_twin(own, step, stretch)
        beside = {id: usual[usual.index.get_level_values("layer") == id].to_numpy() for id in own.index}
        told = {id: placebo.scores(own.loc[id].to_numpy(), beside[id]) for id in own.index}
        together = np.concatenate([null for *_, null in told.values()]) if told else np.array([])
        signed = pd.DataFrame(vars(of) for of in seen.layers.values()).set_index([list(seen.layers)]) if seen else own
        places, touched = self.scene.after(step).lineage, self.scene.touched(step)
        sides = [(step - stretch, step), (step, step + stretch)] if stretch is not None else []
        before, after = [self.scene.mover.speeds(*side) for side in sides] or [{}, {}]
        for id, (zs, score, null) in told.items():
            index = places.index(id)
            row = {"layer": id, "index": index, "distance": distance(index, touched), "stretch": stretch}
            row |= signed.loc[id, INSTANT].to_dict() | own.loc[id, DYNAMIC].to_dict()
            row |= {"speed_before": before.get(id, np.nan), "speed_after": after.get(id, np.nan)}
            row |= {f"{name}_z": z for name, z in zip(ALL, zs, strict=True)}
            others = null if np.isfinite(null).sum() >= ENOUGH else together
            count = int(np.isfinite(others).sum())
            yield row | {"against": against, "score": score, "p": placebo.p_value(score, others), "placebos": count}

    def _of(self, seen: Instant | None, mover: Mover, step: int, stretch: int | None) -> pd.DataFrame:
        """The components of each layer around a step; what is instant is `seen`."""
        import pandas as pd

        found: dict[str, dict[str, float]] = {"logged": self._logged(mover, step)}
        if stretch is not None:
            found["excess"] = log_ratios(mover.speeds(step, step + stretch), mover.speeds(step - stretch, step))
        if seen is not None:
            found |= {name: {id: abs(getattr(of, name)) for id, of in seen.layers.items()} for name in INSTANT}
        there = mover.starts[step].lineage.shared(mover.ends[step].lineage)
        return pd.DataFrame(found, index=there, columns=ALL, dtype=float)

    def _usual(self, step: int, stretch: int | None, still: bool) -> pd.DataFrame:
        """The components at placebo steps, by (number, layer); what is instant there is `stretch` steps of training."""
        import pandas as pd

        tables = []
        for mover, at in self._placebos(step, stretch):
            seen = self._compare(mover.starts[at], mover.ends[at + (stretch or 0)]) if still else None
            tables.append(self._of(seen, mover, at, stretch))
            self.tick()
        empty = pd.DataFrame(columns=ALL, dtype=float, index=pd.MultiIndex.from_arrays([[], []]))
        found = pd.concat(dict(enumerate(tables))) if tables else empty
        return found.rename_axis(["number", "layer"])

    def _placebos(self, step: int, stretch: int | None) -> list[tuple[Mover, int]]:
        """Checkpoints without an event near, of the run and of its twin, that have others at this distance."""
        if stretch is None:
            return []
        found: list[tuple[Mover, int]] = []
        twin = self.scene.twin_mover(step)
        for mover in (self.scene.mover, *([twin] if twin else [])):
            events = {*self.scene.events, step} if mover is self.scene.mover else {step}
            there = [at for at in mover.starts if at not in events and mover.spans(at, stretch)]
            quiet = placebo.quiet(there, list(events), stretch, stretch, max(mover.ends))
            found += [(mover, at) for at in quiet]
        return [found[number] for number in placebo.some(range(len(found)), self.most)]

    def _hold_against_twin(self, own: pd.DataFrame, step: int, stretch: int | None) -> str:
        """Put excess movement over the twin's in place of that over placebos, where there is a twin."""
        import pandas as pd

        twin = self.scene.twin_mover(step)
        if twin is None or stretch is None or step + stretch not in twin.ends:
            return "placebo"
        ours, theirs = (mover.speeds(step, step + stretch) for mover in (self.scene.mover, twin))
        own["excess"] = pd.Series(log_ratios(ours, theirs)).reindex(own.index)
        return "twin"

    def _stretch(self, step: int) -> int | None:
        """The longest stretch that lies alike on both sides of a step, and has no other event inside."""
        others = [event for event in self.scene.events if event != step]
        spans = [k for k in range(1, self.scene.window + 1) if self.scene.mover.spans(step, k)]
        return max((k for k in spans if placebo.quiet([step], others, k, k, self.scene.end)), default=None)

    def _logged(self, mover: Mover, step: int) -> dict[str, float]:
        """Layer id → log of its median gradient norm after a step ÷ before it, as logged."""
        room, window, medians = self.scene.room(step), self.scene.window, []
        tags = {id: run_folder.GRAD_NORM + Part("layer", id).tag for id in mover.run.lineage.layers}
        columns = {id: mover.run.scalars.of(tag) for id, tag in tags.items()}
        for low, high in ((step, step + room), (step - window, step)):
            within = {id: of.values[(of.steps > low) & (of.steps <= high)] for id, of in columns.items()}
            medians.append({id: float(np.median(values)) for id, values in within.items() if len(values)})
        return log_ratios(*medians)

    def _compare(self, first: Checkpoint, last: Checkpoint) -> Instant:
        assert self.tokens is not None
        pair = str(first.path), str(last.path)
        if pair not in self._compared:
            self._compared[pair] = instant.compare(first, last, self.tokens)
        return self._compared[pair]
