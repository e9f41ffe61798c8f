"""Report section: disturbance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import disturbance as figures
from pli_analysis.metrics.disturbance import disturbance as metric
from pli_analysis.metrics.disturbance.event_context import twins_beside
from pli_analysis.metrics.disturbance.loss_response import ROUNDING, TOLERANCE, running_median
from pli_analysis.metrics.disturbance.placebo import ENOUGH
from pli_analysis.report.parts import Figure, Report, Section, count, sample, sentences, signed

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.disturbance.disturbance import Disturbance
    from pli_analysis.runs.run import Run

TITLE = "Disturbance"
UNUSUAL = 0.05
WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
METHOD = [
    (
        "on the spot",
        "The checkpoints right before and right after an event read the same held-out tokens, without dropout or "
        "training: ΔL with a paired 95 % interval over blocks, KL(p⁻ ‖ p⁺), the share of predictions that changed, and "
        "of each layer that was there ‖h⁺ − h⁻‖ ÷ ‖h⁻‖, 1 − CKA (debiased; Nguyen et al. 2021, arXiv:2010.15327), and "
        "the ratio and cosine of its gradients.",
    ),
    (
        "loss afterwards",
        "Held against the twin's, or against Theil and Sen's line (Sen 1968) over log step through the steps before. "
        "Spike and recovery are read off a running median of 5; area and late excess are not smoothed. A spike is gone "
        "once it is within two deviations of the noise around that line, or of the difference to the twin.",
    ),
    (
        "movement",
        "Of a layer, the speed ‖Δθ‖ ÷ (‖θ‖ · Σ learning rates) after ÷ before the event, held against its twin's, or "
        "against the same ratio at placebo steps.",
    ),
    (
        "score, p",
        "A placebo step has no event near, lies in the same phase of the learning rate (warm-up, stable, decay, …) and "
        "within a factor of two of the event's step. Deviations of a component are from the median of these, by "
        "their MAD; a layer's score is its largest. p is the share of placebo steps that score as high, itself counted "
        "(Phipson and Smyth 2010): n of them give no p below 1 ÷ (1 + n). It is not corrected for the number of tests. "
        "Layers and events of one run are no replicates.",
    ),
]


def build(run: Run, found: Disturbance) -> Report:
    """The page on disturbance alone."""
    lead = (
        f"What {count(len(found.events), 'step')} with growth events did to the loss and to the layers that were there."
    )
    return Report(run.name, lead, [section(found)])


def disturbance(run: Run) -> Section:
    """What growth disturbed."""
    if not run.lineage.events:
        return Section("disturbance", TITLE, ["This run did not grow, so that nothing was disturbed."])
    return section(measured(run))


def measured(run: Run) -> Disturbance:
    """What a report measures of a run that grew: the same as the command."""
    return metric.disturbance(run, twins_beside(run))


def section(found: Disturbance) -> Section:
    """All there is to tell: words, figures, tables."""
    points = [
        _split(event, message) for (_, event), message in zip(found.events.iterrows(), readings(found), strict=True)
    ]
    shown, headline = [], ""
    curves = _curves(found)
    if len(curves):
        drawing, headline = figures.losses(curves), _loss_words(found)
        caption = f"{headline} {sample(count(len(found.curves), 'step') + ' with growth')}"
        shown.append(Figure("disturbance-loss", "Loss behind each growth event", caption, drawing, curves))
    layers = found.layers
    if len(scored := layers[layers[col.SCORE].notna()]):
        caption, drawing = f"{_layer_words(scored)} {_pairs(scored)}", figures.heat_map(layers)
        shown.append(Figure("disturbance-layers", "Who was disturbed", caption, drawing, layers))
    if len(moved := layers[layers[col.EXCESS_LOG_UPDATE_RATE].notna() & layers[col.LAYERS_FROM_EVENT].notna()]):
        caption, drawing = f"{_distance_words(moved)} {_pairs(moved)}", figures.by_distance(moved)
        shown.append(Figure("disturbance-distance", "Movement over distance from the event", caption, drawing, moved))
    tables = [("Growth events", found.events)]
    words = sentences(found.notes)
    return Section("disturbance", TITLE, words, points, figures=shown, tables=tables, headline=headline, method=METHOD)


def _pairs(layers: pd.DataFrame) -> str:
    return sample(f"{count(len(layers), 'pair')} of a layer and an event")


def readings(found: Disturbance) -> list[str]:
    """Each event in plain words."""
    return [
        " ".join(filter(None, [_instant(event), _dynamic(event, found.most), _layers(event, found.layers, found.most)]))
        for _, event in found.events.iterrows()
    ]


def _split(event: pd.Series, message: str) -> tuple[str, str]:
    """The name of an event, and what is told of it."""
    return _name(event), message.removeprefix(_name(event)).lstrip(" :")


def _name(event: pd.Series) -> str:
    return f"{event[col.EVENT]} at step {event[col.STEP]:,}"


def _instant(event: pd.Series) -> str:
    """What it did on the spot."""
    name = _name(event)
    if event[col.LOSS_CHANGE] == event[col.LOSS_CHANGE]:
        rounded = abs(event[col.LOSS_CHANGE]) < ROUNDING and event[col.KL] < ROUNDING
        if rounded and event[col.FLIPS] == 0:
            return f"{name} changed no prediction on the spot."
        if rounded:
            return f"{name} changed {event[col.FLIPS]:.2%} of predictions and the loss by no more than rounding."
        sure = not event[col.LOSS_CHANGE_LOW] <= 0 <= event[col.LOSS_CHANGE_HIGH]
        how = f"{'raised' if event[col.LOSS_CHANGE] > 0 else 'lowered'} the loss by {_small(event[col.LOSS_CHANGE])}"
        how = how if sure else f"changed the loss by {signed(event[col.LOSS_CHANGE])}"
        read = f"{count(event[col.BLOCKS], 'block')} of {count(event[col.DOCUMENTS], 'document')}"
        interval = f"95 % interval {signed(event[col.LOSS_CHANGE_LOW])} to {signed(event[col.LOSS_CHANGE_HIGH])}, "
        message = f" ({interval if event[col.LOSS_CHANGE_LOW] < event[col.LOSS_CHANGE_HIGH] else ''}{read})"
        return f"{name} {how}{message} and changed {event[col.FLIPS]:.0%} of predictions."
    change = event[col.LOSS_AFTER] - event[col.LOSS_BEFORE]
    if abs(change) < ROUNDING:
        return f"{name} changed the eval loss by no more than rounding."
    return f"{name} changed the eval loss by {signed(change)}." if change == change else f"{name}:"


def _dynamic(event: pd.Series, most: int) -> str:
    """What the loss did behind it; beside `most` placebo steps."""
    if event[col.SPIKE] != event[col.SPIKE]:
        return "Too few losses were logged around it to say what followed."
    trend, twin = event[col.REFERENCE] == "trend", f"its twin {event[col.REFERENCE]}"
    steps = count(int(event[col.RECOVERY_STEPS]), "step")
    if event[col.SPIKE] <= max(TOLERANCE * event[col.NOISE], ROUNDING):
        message = f"The loss stayed within the noise of {'its trend' if trend else f'its difference to {twin}'}"
    elif event[col.IS_RECOVERED]:
        message = f"A loss spike of {event[col.SPIKE]:.2f} over {'its trend' if trend else twin} was gone after {steps}"
    else:
        above = "its trend" if trend else twin
        message = f"A loss spike of {event[col.SPIKE]:.2f} over {above} was not gone within {steps}"
    message += _unusual(event) if most else ""
    if not trend and event[col.LATE_EXCESS] == event[col.LATE_EXCESS]:
        side = "below" if event[col.LATE_EXCESS] < 0 else "above"
        distinct_digits = "" if abs(event[col.LATE_EXCESS]) < ROUNDING else f"{_small(event[col.LATE_EXCESS])} {side} "
        message += f"; late in the window the loss was {distinct_digits}its twin's"
    return f"{message}."


def _unusual(event: pd.Series) -> str:
    """How unusual its spike is beside placebo steps, or why that cannot be told."""
    beside = count(event[col.PLACEBOS], "placebo step")
    if event[col.SPIKE_P] == event[col.SPIKE_P]:
        by = "" if event[col.REFERENCE] == "trend" else "by its trend "
        least = f", which can give no p below {event[col.MIN_P]:.3f}" if event[col.MIN_P] >= UNUSUAL else ""
        return f" ({by}p {_p(event[col.SPIKE_P])} over {event[col.PLACEBO_WINDOW]:.0f} steps beside {beside}{least})"
    if event[col.PLACEBO_WINDOW] != event[col.PLACEBO_WINDOW]:
        return ""
    if not isinstance(event[col.LR_PHASE], str):
        return f" (no p: the learning rate changes phase within {event[col.PLACEBO_WINDOW]:.0f} steps, or is not known)"
    return f" (no p: no placebo steps in the same phase of the learning rate, {event[col.LR_PHASE]})"


def _layers(event: pd.Series, layers: pd.DataFrame, most: int) -> str:
    """Who was disturbed most; nothing where no placebo steps were asked for."""
    if not most:
        return ""
    mine = layers[layers[col.STEP] == event[col.STEP]]
    scored = mine[mine[col.SCORE].notna()]
    if not len(scored):
        return _unscored(event, mine.iloc[0]) if len(mine) else ""
    unusual = scored[scored[col.P] < UNUSUAL]
    of = unusual if len(unusual) else scored
    first = of.loc[of[col.SCORE].idxmax()]
    highest = f"highest score {first[col.SCORE]:.1f}, {_who(first)}"
    if not len(unusual) and not scored[col.MIN_P].min() < UNUSUAL:
        why = "too few placebo checkpoints for a p"
        if scored[col.P].notna().any():
            most_of = count(int(scored[col.PLACEBOS].max()), "placebo checkpoint")
            why = f"{most_of} can give no p below {scored[col.MIN_P].min():.3f}"
        more = "a larger --placebos allows" if most < ENOUGH else "a smaller checkpoint.every makes"
        more = f"{why}, and {more} more ({highest})"
        return f"Whether a layer was disturbed beyond the usual is not known: {more}."
    if not len(unusual):
        return f"No layer was disturbed beyond the usual ({highest})."
    words = f"Most disturbed was {_who(first)}: {_how(first)}, "
    others = unusual[unusual[col.LAYER] != first[col.LAYER]][col.LAYER]
    beside = (
        f"; beyond the usual {'was' if len(others) == 1 else 'were'} also {', '.join(others)}" if len(others) else ""
    )
    words += f"score {first[col.SCORE]:.1f}, p {_p(first[col.P])} of {first[col.PLACEBOS]} placebo checkpoints"
    return f"{words}{beside}."


def _unscored(event: pd.Series, row: pd.Series) -> str:
    """Why layers have no score, and what would give them one."""
    import pandas as pd

    if pd.isna(row[col.PLACEBO_WINDOW]):
        why = f"no checkpoints lie equally far before and after it within {count(event[col.WINDOW], 'step')}"
    elif not isinstance(row[col.LR_PHASE], str):
        why = f"the learning rate changes phase within {count(row[col.PLACEBO_WINDOW], 'step')}, or is not known"
    else:
        why = f"it has too few placebo checkpoints in the same phase of the learning rate ({row[col.LR_PHASE]})"
    return f"Its layers have no score: {why}. A smaller checkpoint.every makes more checkpoints to hold them against."


def _how(row: pd.Series) -> str:
    """The component that a layer scores highest by, in words."""

    def times(name: str) -> str:
        return f"{np.exp(row[name]):.2f}"

    faster, moved = col.EXCESS_LOG_UPDATE_RATE, row[col.EXCESS_LOG_UPDATE_RATE]
    over = count(row[col.PLACEBO_WINDOW], "step") if moved == moved else ""
    message = {
        col.OUTPUT_CHANGE: f"its output changed by {row[col.OUTPUT_CHANGE]:.1%}",
        col.CKA_DISTANCE: f"its outputs lie in another geometry (1 − CKA {row[col.CKA_DISTANCE]:.2g})",
        col.LOG_GRAD_NORM_RATIO: f"its gradient became {times(col.LOG_GRAD_NORM_RATIO)} times as large on the spot",
        col.GRAD_COSINE_DISTANCE: f"its gradient turned (1 − cosine {row[col.GRAD_COSINE_DISTANCE]:.2f})",
        faster: f"it moved {times(faster)} times as fast as {_usual(row)} over {over}",
        col.EXCESS_LOG_GRAD_NORM: f"its gradient norm afterwards was {times(col.EXCESS_LOG_GRAD_NORM)} times the usual",
    }
    return message[max(message, key=lambda name: np.nan_to_num(row[col.z_of(name)], nan=-np.inf))]


def _usual(row: pd.Series) -> str:
    return "its twin's" if row[col.REFERENCE] == "twin" else "usual"


def _who(row: pd.Series) -> str:
    """A layer and where it sits: `layer d, two above`."""
    import pandas as pd

    if pd.isna(row[col.LAYERS_FROM_EVENT]):
        return f"layer {row[col.LAYER]}"
    where = int(row[col.LAYERS_FROM_EVENT])
    if where == 0:
        return f"layer {row[col.LAYER]}, touched itself"
    return f"layer {row[col.LAYER]}, {WORDS.get(abs(where), abs(where))} {'above' if where > 0 else 'below'}"


def _small(value: float) -> str:
    return f"{abs(value):.3f}" if abs(value) >= 0.0005 else f"{abs(value):.1g}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value < UNUSUAL else f"{value:.2f}"


def _curves(found: Disturbance) -> pd.DataFrame:
    """The smoothed excess loss behind each event, as one table."""
    import pandas as pd

    names = dict(zip(found.events[col.STEP], found.events[col.EVENT], strict=True))
    parts = []
    for step, after in found.curves.items():
        first = names[step].split()[0]
        layer = first.removeprefix("+") if first.startswith("+") else ""
        columns = {col.STEPS_SINCE: after.steps - step, col.EXCESS_LOSS: after.excess}
        columns[col.SMOOTHED_EXCESS_LOSS] = running_median(after.excess)
        parts.append(pd.DataFrame({col.STEP: step, col.EVENT: names[step], col.LAYER: layer, **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _loss_words(found: Disturbance) -> str:
    known = found.events[found.events[col.SPIKE].notna()]
    gone, most = known[known[col.IS_RECOVERED].astype(bool)], known.loc[known[col.SPIKE].idxmax()]
    words = f"The highest spike, {most[col.SPIKE]:.2f}, is behind {most[col.EVENT]} at step {most[col.STEP]:,}. "
    window, events = count(int(known[col.WINDOW].iloc[0]), "step"), count(len(known), "event")
    words += f"Within {window} the loss was back behind {len(gone)} of {events}"
    if len(gone):
        words += f", after {count(int(gone[col.RECOVERY_STEPS].median()), 'step')} in the median"
    return f"{words}. {spikes_beyond(known)}"


def spikes_beyond(known: pd.DataFrame) -> str:
    """How many of these spikes are unusual, among those that have placebo steps enough to be."""
    able = known[known[col.MIN_P] < UNUSUAL]
    if not len(able):
        return "No spike has enough placebo steps to show whether it is beyond what steps without events show."
    unusual, lack = int((able[col.SPIKE_P] < UNUSUAL).sum()), len(known) - len(able)
    others = f"; {lack} more {'has' if lack == 1 else 'have'} too few placebo steps" if lack else ""
    are = "is" if unusual == 1 else "are"
    return f"{unusual} of {count(len(able), 'spike')} {are} beyond what steps without events show{others}."


def _layer_words(scored: pd.DataFrame) -> str:
    able = scored[scored[col.MIN_P] < UNUSUAL]
    most = scored.loc[scored[col.SCORE].idxmax()]
    if len(able):
        unusual = int((able[col.P] < UNUSUAL).sum())
        words = f"Of {count(len(able), 'pair')} of a layer and an event with enough placebo steps, "
        words += f"{unusual} {'scores' if unusual == 1 else 'score'} beyond what steps without events show"
        words += f" (by chance {UNUSUAL * len(able):.1f} would)"
    else:
        words = "No pair of a layer and an event has the 20 placebo steps that a p below 0.05 needs"
    return f"{words}; the highest score is of {_who(most)}, at {most[col.EVENT]}: {most[col.SCORE]:.1f}."


def _distance_words(moved: pd.DataFrame) -> str:
    parts = []
    for name, rows in (
        ("above", moved[moved[col.LAYERS_FROM_EVENT] > 0]),
        ("below", moved[moved[col.LAYERS_FROM_EVENT] < 0]),
    ):
        if len(rows):
            parts.append(
                f"{name} the event {np.exp(rows[col.EXCESS_LOG_UPDATE_RATE].median()):.2f} times as fast as usual"
            )
    return f"In the median layers moved {' and '.join(parts)}." if parts else "All layers were touched themselves."
