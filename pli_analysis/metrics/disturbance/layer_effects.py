"""Effect of growth events on layers, compared with placebo steps.

A layer has several *components* at a step: instant changes, and changes of its update rate and gradient norm. They are
computed at placebo steps too, so that each component can be expressed in deviations from this layer's usual values. A
table of components has one row for each layer id and one column for each component; NaN where it is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.disturbance import at_event, placebo
from pli_analysis.metrics.disturbance.event_context import EventContext, distance
from pli_analysis.metrics.disturbance.layer_speeds import LayerSpeeds, log_ratios
from pli_train.core.anatomy.parts import Part
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.inference.eval_tokens import Sample
    from pli_analysis.metrics.disturbance.at_event import StateComparison
    from pli_analysis.runs.checkpoint import Checkpoint

INSTANT = [col.OUTPUT_CHANGE, col.CKA_DISTANCE, col.LOG_GRAD_NORM_RATIO, col.GRAD_COSINE_DISTANCE]
DYNAMIC = [col.EXCESS_LOG_UPDATE_RATE, col.EXCESS_LOG_GRAD_NORM]
ALL = [*INSTANT, *DYNAMIC]
COLUMNS = [col.LAYER, col.INDEX, col.LAYERS_FROM_EVENT, *INSTANT, col.PLACEBO_WINDOW, col.UPDATE_RATE_BEFORE]
COLUMNS += [col.UPDATE_RATE_AFTER, *DYNAMIC, col.REFERENCE, col.LR_PHASE, *(col.z_of(name) for name in ALL)]
COLUMNS += [col.SCORE, col.P, col.PLACEBOS, col.MIN_P]


@dataclass(frozen=True)
class Layers:
    """Measures the effect of events on layers.

    Attributes:
        context: the run and its twins.
        most: maximum number of placebo steps.
        sample: blocks on which instant changes are measured; None to leave these out.
        blocks: number of blocks on which layers are compared.
        tick: called after each placebo step is measured.
    """

    context: EventContext
    most: int
    sample: Sample | None
    blocks: int
    tick: Callable[[], None]
    _compared: dict[tuple[str, str], StateComparison] = field(default_factory=dict)

    def instant(self, step: int) -> StateComparison | None:
        """Return the instant changes of an event; None without a checkpoint before it, or without tokens."""
        first = self.context.before(step)
        if self.sample is None or first is None or not first.lineage.stack:
            return None
        return at_event.compare(first, self.context.after(step), self.sample, self.blocks)

    def rows(self, step: int) -> Iterator[dict[str, object]]:
        """Yield the values of `COLUMNS` for each layer that existed before the event."""
        import pandas as pd

        seen, (stretch, placebos) = self.instant(step), self._stretch(step)
        own = self._of(seen, self.context.mover, step, stretch)
        usual = self._usual(placebos, stretch, seen is not None)
        middle = usual.groupby(level=col.LAYER)[DYNAMIC].median()
        own[DYNAMIC] -= middle.reindex(own.index)
        usual[DYNAMIC] -= middle.reindex(usual.index, level="layer")
        placebos_of = {id: usual[usual.index.get_level_values(col.LAYER) == id].to_numpy() for id in own.index}
        scores = {id: placebo.scores(own.loc[id].to_numpy(), placebos_of[id]) for id in own.index}
        # After the scores: placebo steps have no twin, and events must be scored in the same way as these.
        reference = self._relative_to_twin(own, step, stretch)
        signed = pd.DataFrame(vars(of) for of in seen.layers.values()).set_index([list(seen.layers)]) if seen else own
        locations, touched = self.context.after(step).lineage, self.context.touched(step)
        sides = [(step - stretch, step), (step, step + stretch)] if stretch is not None else []
        before, after = [self.context.mover.speeds(*side) for side in sides] or [{}, {}]
        phase = None if stretch is None else self._phase(step, stretch)
        for id, (zs, score, null) in scores.items():
            index = locations.index(id)
            row = {
                col.LAYER: id,
                col.INDEX: index,
                col.LAYERS_FROM_EVENT: distance(index, touched),
                col.PLACEBO_WINDOW: stretch,
                col.LR_PHASE: phase,
            }
            row |= signed.loc[id, INSTANT].to_dict() | own.loc[id, DYNAMIC].to_dict()
            row |= {col.UPDATE_RATE_BEFORE: before.get(id, np.nan), col.UPDATE_RATE_AFTER: after.get(id, np.nan)}
            row |= {col.z_of(name): z for name, z in zip(ALL, zs, strict=True)}
            count = int(np.isfinite(null).sum())
            row |= {col.REFERENCE: reference, col.SCORE: score, col.P: placebo.p_value(score, null)}
            yield row | {col.PLACEBOS: count, col.MIN_P: placebo.min_p(count)}

    def _of(self, seen: StateComparison | None, mover: LayerSpeeds, step: int, stretch: int | None) -> pd.DataFrame:
        """Return the components of each layer around a step, with the instant changes `seen`."""
        import pandas as pd

        components: dict[str, dict[str, float]] = {
            col.EXCESS_LOG_GRAD_NORM: self._logged(mover, step, stretch or self.context.steps_left(step))
        }
        if stretch is not None:
            components[col.EXCESS_LOG_UPDATE_RATE] = log_ratios(
                mover.speeds(step, step + stretch), mover.speeds(step - stretch, step)
            )
        if seen is not None:
            components |= {name: {id: abs(getattr(of, name)) for id, of in seen.layers.items()} for name in INSTANT}
        there = mover.starts[step].lineage.shared(mover.ends[step].lineage)
        return pd.DataFrame(components, index=there, columns=ALL, dtype=float)

    def _usual(self, placebos: list[tuple[LayerSpeeds, int]], stretch: int | None, instant: bool) -> pd.DataFrame:
        """Return the components at placebo steps, by (number, layer); instant ones are changes over `stretch` steps."""
        import pandas as pd

        tables = []
        for mover, at in placebos:
            seen = self._trained(mover.starts[at], mover.ends[at + (stretch or 0)]) if instant else None
            tables.append(self._of(seen, mover, at, stretch))
            self.tick()
        empty = pd.DataFrame(columns=ALL, dtype=float, index=pd.MultiIndex.from_arrays([[], []]))
        table = pd.concat(dict(enumerate(tables))) if tables else empty
        return table.rename_axis(["number", col.LAYER])

    def sources(self, step: int, stretch: int) -> dict[int, LayerSpeeds]:
        """Return the candidate placebo steps, each with the run that has it: the run itself, or else its twin."""
        sources: dict[int, LayerSpeeds] = {}
        if (phase := self._phase(step, stretch)) is None:
            return sources
        twin = self.context.twin_mover(step)
        for mover in (self.context.mover, *([twin] if twin else [])):
            events = [event.step for event in mover.run.lineage.events]
            there = [at for at in mover.starts if at not in sources and mover.spans(at, stretch)]
            for at in placebo.without_events(there, events, stretch, max(mover.ends)):
                if mover.rates.phase(at - stretch, at + stretch) == phase:
                    sources[at] = mover
        return sources

    def _phase(self, step: int, stretch: int) -> str | None:
        return self.context.mover.rates.phase(step - stretch, step + stretch, event=step)

    def _relative_to_twin(self, own: pd.DataFrame, step: int, stretch: int | None) -> str:
        """Make excess update rates relative to the twin, if there is one; return the name of the reference."""
        import pandas as pd

        twin = self.context.twin_mover(step)
        if twin is None or stretch is None or step + stretch not in twin.ends:
            return "placebo"
        ours, theirs = (mover.speeds(step, step + stretch) for mover in (self.context.mover, twin))
        own[col.EXCESS_LOG_UPDATE_RATE] = pd.Series(log_ratios(ours, theirs)).reindex(own.index)
        return "twin"

    def _stretch(self, step: int) -> tuple[int | None, list[tuple[LayerSpeeds, int]]]:
        """Return the number of steps on each side over which layers are compared, and the placebo steps.

        There are checkpoints at both ends and no other event inside. It is the longest with enough placebo steps, or
        else the one with most; None if there is none.
        """
        lengths = range(self.context.window, 0, -1)
        spans = [k for k in lengths if self.context.mover.spans(step, k) and self.context.without_events(step, k)]
        if not spans:
            return None, []
        enough = min(placebo.ENOUGH, self.most)
        stretch, steps = placebo.longest(
            spans, lambda k: placebo.around(step, k, [*self.sources(step, k)], self.most), enough
        )
        sources = self.sources(step, stretch)
        return stretch, [(sources[at], at) for at in steps]

    def _logged(self, mover: LayerSpeeds, step: int, reach: int) -> dict[str, float]:
        """Return by layer id the log of (median logged gradient norm after a step ÷ before it)."""
        medians = []
        tags = {id: run_folder.GRAD_NORM + Part("layer", id).tag for id in mover.run.lineage.layers}
        columns = {id: mover.run.scalars.of(tag) for id, tag in tags.items()}
        for low, high in ((step, step + reach), (step - reach, step)):
            within = {id: of.values[(of.steps > low) & (of.steps <= high)] for id, of in columns.items()}
            medians.append({id: float(np.median(values)) for id, values in within.items() if len(values)})
        return log_ratios(*medians)

    def _trained(self, first: Checkpoint, last: Checkpoint) -> StateComparison:
        """Return the changes that training made between two checkpoints."""
        assert self.sample is not None
        pair = str(first.path), str(last.path)
        if pair not in self._compared:
            self._compared[pair] = at_event.compare(first, last, self.sample.first(self.blocks), self.blocks)
        return self._compared[pair]
