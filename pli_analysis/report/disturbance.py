"""Report section: disturbance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import disturbance as figures
from pli_analysis.metrics.disturbance import disturbance as metric
from pli_analysis.metrics.disturbance.event_context import twins_beside
from pli_analysis.metrics.disturbance.event_summary import recoveries
from pli_analysis.metrics.disturbance.loss_response import ROUNDING, TOLERANCE, running_median
from pli_analysis.metrics.disturbance.placebo import ENOUGH
from pli_analysis.report.key_figures import of_events
from pli_analysis.report.parts import Figure, Report, Section, sample, sentences, signed
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.disturbance.disturbance import Disturbance
    from pli_analysis.runs.run import Run

TITLE = "Disturbance"
SIGNIFICANCE = 0.05
"""Layers and spikes with a p below this are reported."""
WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
METHOD = [
    (
        "immediate effect",
        "The checkpoints right before (−) and right after (+) an event are evaluated on the same held-out tokens, "
        "without dropout and with no training step in between: ΔL with a paired 95 % interval over blocks, "
        "KL(p⁻ ‖ p⁺), and the share of predictions that changed. For each layer that existed before the event: "
        "‖h⁺ − h⁻‖ ÷ ‖h⁻‖ and 1 − CKA of its outputs h (debiased; Nguyen et al. 2021, arXiv:2010.15327), and the ratio "
        "and cosine of its gradients.",
    ),
    (
        "loss response",
        "The excess loss is the loss minus the expected loss: that of the twin or, without a twin, a Theil–Sen line "
        "(Sen 1968) over the logarithm of the step, fitted to the steps before the event. The spike is the maximum of "
        "a running median of 5 of the excess. The loss has recovered when that median is within two standard "
        "deviations of the noise: around the line or, with a twin, of the difference between both runs. Area and late "
        "excess are not smoothed.",
    ),
    (
        "relative update rate",
        "‖Δθ‖ ÷ (‖θ‖ · Σ learning rates) of a layer's weights θ. The rate after the event ÷ the rate before it is "
        "compared with the same ratio in the twin or, without a twin, with its median at placebo steps.",
    ),
    (
        "score, p",
        "A placebo step is a step without a growth event nearby, in the same phase of the learning rate (warm-up, "
        "stable, decay, …) and within a factor of two of the event's step. Each component is expressed as a robust z: "
        "(value − median) ÷ (1.4826 · MAD) of the placebo steps. The score of a layer is its largest z. p is the share "
        "of steps that score at least as high, among the placebo steps and the event itself (Phipson and Smyth 2010): "
        "with n placebo steps it is at least 1 ÷ (1 + n). It is not corrected for the number of tests. Layers and "
        "events of one run are not independent replicates.",
    ),
]


def build(run: Run, found: Disturbance) -> Report:
    """Build a report with the disturbance section only."""
    lead = f"Effect of growth on the loss and on existing layers, at {counted(len(found.events), 'step')}."
    return Report(run.name, lead, [section(found)])


def disturbance(run: Run) -> Section:
    """Build the section on what each growth event changed in the loss and in existing layers."""
    if not run.lineage.events:
        return Section("disturbance", TITLE, ["This run did not grow, so there is no disturbance to measure."])
    return section(measured(run))


def measured(run: Run) -> Disturbance:
    """Measure a run that grew as the command does, with the twins in the same folder."""
    return metric.disturbance(run, twins_beside(run))


def section(found: Disturbance) -> Section:
    """Build the section from measurements: a sentence per event, figures, tables."""
    points = [
        _split(event, reading) for (_, event), reading in zip(found.events.iterrows(), readings(found), strict=True)
    ]
    shown, headline = [], ""
    curves = _curves(found)
    if len(curves):
        drawing, headline = figures.losses(curves), _loss_words(found)
        caption = f"{headline} {sample(counted(len(found.curves), 'step') + ' with growth')}"
        shown.append(Figure("disturbance-loss", "Excess loss after each growth event", caption, drawing, curves))
    layers = found.layers
    if len(scored := layers[layers[col.SCORE].notna()]):
        caption, drawing = f"{_layer_words(scored)} {_pairs(scored)}", figures.heat_map(layers)
        shown.append(Figure("disturbance-layers", "Disturbance score of each layer", caption, drawing, layers))
    if len(moved := layers[layers[col.EXCESS_LOG_UPDATE_RATE].notna() & layers[col.LAYERS_FROM_EVENT].notna()]):
        caption, drawing = f"{_distance_words(moved)} {_pairs(moved)}", figures.by_distance(moved)
        shown.append(Figure("disturbance-distance", "Update rate by distance from the event", caption, drawing, moved))
    tables = [("Growth events", found.events)]
    words = sentences(found.notes)
    return Section(
        *("disturbance", TITLE, words, points),
        figures=shown,
        tables=tables,
        headline=headline,
        method=METHOD,
        key_figures=of_events({"": found.events}),
    )


def _pairs(layers: pd.DataFrame) -> str:
    return sample(counted(len(layers), "layer-event pair"))


def readings(found: Disturbance) -> list[str]:
    """Describe each event in a few sentences."""
    return [
        " ".join(filter(None, [_instant(event), _dynamic(event, found.most), _layers(event, found.layers, found.most)]))
        for _, event in found.events.iterrows()
    ]


def _split(event: pd.Series, reading: str) -> tuple[str, str]:
    """Return the name of an event, and its description without the name."""
    return _name(event), reading.removeprefix(_name(event)).lstrip(" :")


def _name(event: pd.Series) -> str:
    return f"{event[col.EVENT]} at step {event[col.STEP]:,}"


def _instant(event: pd.Series) -> str:
    """Describe the immediate effect of an event."""
    name = _name(event)
    if event[col.LOSS_CHANGE] == event[col.LOSS_CHANGE]:
        rounded = abs(event[col.LOSS_CHANGE]) < ROUNDING and event[col.KL] < ROUNDING
        if rounded and event[col.FLIPS] == 0:
            return f"{name} changed no prediction."
        if rounded:
            return f"{name} changed {event[col.FLIPS]:.2%} of predictions, and the loss by rounding error only."
        is_signed = not event[col.LOSS_CHANGE_LOW] <= 0 <= event[col.LOSS_CHANGE_HIGH]
        how = f"{'raised' if event[col.LOSS_CHANGE] > 0 else 'lowered'} the loss by {_small(event[col.LOSS_CHANGE])}"
        how = how if is_signed else f"changed the loss by {signed(event[col.LOSS_CHANGE])}"
        blocks = f"{counted(event[col.BLOCKS], 'block')} of {counted(event[col.DOCUMENTS], 'document')}"
        interval = f"95 % interval {signed(event[col.LOSS_CHANGE_LOW])} to {signed(event[col.LOSS_CHANGE_HIGH])}, "
        evidence = f" ({interval if event[col.LOSS_CHANGE_LOW] < event[col.LOSS_CHANGE_HIGH] else ''}{blocks})"
        return f"{name} {how}{evidence} and changed {event[col.FLIPS]:.0%} of predictions."
    change = event[col.LOSS_AFTER] - event[col.LOSS_BEFORE]
    if abs(change) < ROUNDING:
        return f"{name} changed the eval loss by rounding error only."
    return f"{name} changed the eval loss by {signed(change)}." if change == change else f"{name}:"


def _dynamic(event: pd.Series, most: int) -> str:
    """Describe the loss after an event, compared with at most `most` placebo steps."""
    if event[col.SPIKE] != event[col.SPIKE]:
        return "Too few losses were logged around it to measure what followed."
    trend, twin = event[col.REFERENCE] == "trend", f"its twin {event[col.REFERENCE]}"
    steps = counted(int(event[col.RECOVERY_STEPS]), "step")
    if event[col.SPIKE] <= max(TOLERANCE * event[col.NOISE], ROUNDING):
        response = f"The loss stayed within the noise of {'its trend' if trend else f'its difference from {twin}'}"
    else:
        end = f"recovered after {steps}" if event[col.IS_RECOVERED] else f"did not recover within {steps}"
        response = f"The loss rose {event[col.SPIKE]:.2f} above {'its trend' if trend else twin} and {end}"
    response += _evidence(event) if most else ""
    if not trend and event[col.LATE_EXCESS] == event[col.LATE_EXCESS]:
        side = "below" if event[col.LATE_EXCESS] < 0 else "above"
        late = "" if abs(event[col.LATE_EXCESS]) < ROUNDING else f"{_small(event[col.LATE_EXCESS])} {side} "
        response += f"; in the last quarter of the window the loss was {late or 'equal to '}its twin's"
    return f"{response}."


def _evidence(event: pd.Series) -> str:
    """Give the p of the spike against placebo steps, or the reason why it has none."""
    placebos = counted(event[col.PLACEBOS], "placebo step")
    if event[col.SPIKE_P] == event[col.SPIKE_P]:
        by = "" if event[col.REFERENCE] == "trend" else " relative to its trend"
        least = f"; the smallest possible p is {event[col.MIN_P]:.3f}" if event[col.MIN_P] >= SIGNIFICANCE else ""
        window = f"{event[col.PLACEBO_WINDOW]:.0f} steps"
        return f" (p {_p(event[col.SPIKE_P])}{by} over {window}, against {placebos}{least})"
    if event[col.PLACEBO_WINDOW] != event[col.PLACEBO_WINDOW]:
        return ""
    if not isinstance(event[col.LR_PHASE], str):
        return f" (no p: the learning-rate phase changes within {event[col.PLACEBO_WINDOW]:.0f} steps or is unknown)"
    return f" (no p: no placebo steps in the same phase of the learning rate, {event[col.LR_PHASE]})"


def _layers(event: pd.Series, layers: pd.DataFrame, most: int) -> str:
    """Describe the most disturbed layer; empty where placebo steps are turned off."""
    if not most:
        return ""
    mine = layers[layers[col.STEP] == event[col.STEP]]
    scored = mine[mine[col.SCORE].notna()]
    if not len(scored):
        return _unscored(event, mine.iloc[0]) if len(mine) else ""
    significant = scored[scored[col.P] < SIGNIFICANCE]
    candidates = significant if len(significant) else scored
    first = candidates.loc[candidates[col.SCORE].idxmax()]
    highest = f"highest score {first[col.SCORE]:.1f}, {_who(first)}"
    if not len(significant) and not scored[col.MIN_P].min() < SIGNIFICANCE:
        why = "there are too few placebo checkpoints for a p"
        if scored[col.P].notna().any():
            most_of = counted(int(scored[col.PLACEBOS].max()), "placebo checkpoint")
            why = f"with {most_of} the smallest possible p is {scored[col.MIN_P].min():.3f}"
        more = "a larger --placebos" if most < ENOUGH else "a smaller checkpoint.every"
        return f"No layer can have a p below 0.05: {why}; {more} gives more ({highest})."
    if not len(significant):
        return f"No layer has a p below 0.05 ({highest})."
    words = f"Most disturbed is {_who(first)}: {_how(first)}, "
    others = significant[significant[col.LAYER] != first[col.LAYER]][col.LAYER]
    also = f"; p is below 0.05 also for {', '.join(others)}" if len(others) else ""
    words += f"score {first[col.SCORE]:.1f}, p {_p(first[col.P])} against {first[col.PLACEBOS]} placebo checkpoints"
    return f"{words}{also}."


def _unscored(event: pd.Series, row: pd.Series) -> str:
    """Explain why the layers have no score, and what would give them one."""
    import pandas as pd

    if pd.isna(row[col.PLACEBO_WINDOW]):
        why = f"no two checkpoints are equally far before and after it within {counted(event[col.WINDOW], 'step')}"
    elif not isinstance(row[col.LR_PHASE], str):
        why = f"the phase of the learning rate changes within {counted(row[col.PLACEBO_WINDOW], 'step')} or is unknown"
    else:
        why = f"there are too few placebo checkpoints in the same phase of the learning rate ({row[col.LR_PHASE]})"
    return f"Its layers have no score: {why}. A smaller checkpoint.every gives more checkpoints to compare with."


def _how(row: pd.Series) -> str:
    """Describe the component with the highest score of a layer."""

    def times(name: str) -> str:
        return f"{np.exp(row[name]):.2f}"

    faster, moved = col.EXCESS_LOG_UPDATE_RATE, row[col.EXCESS_LOG_UPDATE_RATE]
    over = counted(row[col.PLACEBO_WINDOW], "step") if moved == moved else ""
    words = {
        col.OUTPUT_CHANGE: f"its output changed by {row[col.OUTPUT_CHANGE]:.1%}",
        col.CKA_DISTANCE: f"the geometry of its outputs changed (1 − CKA {row[col.CKA_DISTANCE]:.2g})",
        col.LOG_GRAD_NORM_RATIO: f"its gradient became {times(col.LOG_GRAD_NORM_RATIO)} times as large at the event",
        col.GRAD_COSINE_DISTANCE: f"its gradient changed direction (1 − cosine {row[col.GRAD_COSINE_DISTANCE]:.2f})",
        faster: f"it moved {times(faster)} times as fast as {_expected(row)} over {over}",
        col.EXCESS_LOG_GRAD_NORM: (
            f"its gradient norm afterwards was {times(col.EXCESS_LOG_GRAD_NORM)} times that expected from placebo steps"
        ),
    }
    return words[max(words, key=lambda name: np.nan_to_num(row[col.z_of(name)], nan=-np.inf))]


def _expected(row: pd.Series) -> str:
    return "in the twin" if row[col.REFERENCE] == "twin" else "expected from placebo steps"


def _who(row: pd.Series) -> str:
    """Name a layer and its distance from the event: `layer d, two above the event`."""
    import pandas as pd

    if pd.isna(row[col.LAYERS_FROM_EVENT]):
        return f"layer {row[col.LAYER]}"
    distance = int(row[col.LAYERS_FROM_EVENT])
    if distance == 0:
        return f"layer {row[col.LAYER]}, which the event changed"
    side = "above" if distance > 0 else "below"
    return f"layer {row[col.LAYER]}, {WORDS.get(abs(distance), abs(distance))} {side} the event"


def _small(value: float) -> str:
    return f"{abs(value):.3f}" if abs(value) >= 0.0005 else f"{abs(value):.1g}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value < SIGNIFICANCE else f"{value:.2f}"


def _curves(found: Disturbance) -> pd.DataFrame:
    """Return the excess loss after each event and its running median, as one table."""
    import pandas as pd

    names = dict(zip(found.events[col.STEP], found.events[col.EVENT], strict=True))
    parts = []
    for step, response in found.curves.items():
        first = names[step].split()[0]
        layer = first.removeprefix("+") if first.startswith("+") else ""
        columns = {col.STEPS_SINCE: response.steps - step, col.EXCESS_LOSS: response.excess}
        columns[col.SMOOTHED_EXCESS_LOSS] = running_median(response.excess)
        parts.append(pd.DataFrame({col.STEP: step, col.EVENT: names[step], col.LAYER: layer, **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _loss_words(found: Disturbance) -> str:
    """Describe the highest spike and the recoveries."""
    known = found.events[found.events[col.SPIKE].notna()]
    most, back = known.loc[known[col.SPIKE].idxmax()], recoveries(known)
    assert back is not None
    words = f"The highest loss spike, {most[col.SPIKE]:.2f}, follows {most[col.EVENT]} at step {most[col.STEP]:,}. "
    window, events = counted(back.window, "step"), counted(back.events, "event")
    words += f"The loss recovered within {window} after {back.recovered} of {events}"
    if back.recovered:
        words += f" (median: {counted(int(back.steps), 'step')})"
    return f"{words}. {spikes_beyond(known)}"


def spikes_beyond(known: pd.DataFrame) -> str:
    """Describe how many spikes have a p below 0.05, among those with enough placebo steps for it."""
    able = known[known[col.MIN_P] < SIGNIFICANCE]
    if not len(able):
        return "No spike has the 20 placebo steps that a p below 0.05 needs."
    significant, lack = int((able[col.SPIKE_P] < SIGNIFICANCE).sum()), len(known) - len(able)
    others = f"; {lack} more {'has' if lack == 1 else 'have'} too few" if lack else ""
    have = "has" if significant == 1 else "have"
    return f"Of {counted(len(able), 'spike')} with enough placebo steps, {significant} {have} a p below 0.05{others}."


def _layer_words(scored: pd.DataFrame) -> str:
    """Describe how many layers have a p below 0.05, and the highest score."""
    able = scored[scored[col.MIN_P] < SIGNIFICANCE]
    most = scored.loc[scored[col.SCORE].idxmax()]
    if len(able):
        significant = int((able[col.P] < SIGNIFICANCE).sum())
        words = f"Of {counted(len(able), 'layer-event pair')} with enough placebo steps, {significant} "
        words += f"{'has' if significant == 1 else 'have'} a p below 0.05"
        words += f" ({SIGNIFICANCE * len(able):.1f} expected by chance)"
    else:
        words = "No layer-event pair has the 20 placebo steps that a p below 0.05 needs"
    return f"{words}; the highest score, {most[col.SCORE]:.1f}, is that of {_who(most)}, at {most[col.EVENT]}."


def _distance_words(moved: pd.DataFrame) -> str:
    """Describe the median update rates above and below events."""
    parts = []
    for name, rows in (
        ("above", moved[moved[col.LAYERS_FROM_EVENT] > 0]),
        ("below", moved[moved[col.LAYERS_FROM_EVENT] < 0]),
    ):
        if len(rows):
            parts.append(
                f"{np.exp(rows[col.EXCESS_LOG_UPDATE_RATE].median()):.2f} times as fast as expected {name} the event"
            )
    return f"The median layer moved {' and '.join(parts)}." if parts else "The events changed all of these layers."
