"""Report section: disturbance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    if len(scored := layers[layers["score"].notna()]):
        caption, drawing = f"{_layer_words(scored)} {_pairs(scored)}", figures.heat_map(layers)
        shown.append(Figure("disturbance-layers", "Who was disturbed", caption, drawing, layers))
    if len(moved := layers[layers["excess"].notna() & layers["distance"].notna()]):
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
    return f"{event['event']} at step {event['step']:,}"


def _instant(event: pd.Series) -> str:
    """What it did on the spot."""
    name = _name(event)
    if event["delta"] == event["delta"]:
        rounded = abs(event["delta"]) < ROUNDING and event["kl"] < ROUNDING
        if rounded and event["flips"] == 0:
            return f"{name} changed no prediction on the spot."
        if rounded:
            return f"{name} changed {event['flips']:.2%} of predictions and the loss by no more than rounding."
        sure = not event["delta_low"] <= 0 <= event["delta_high"]
        how = f"{'raised' if event['delta'] > 0 else 'lowered'} the loss by {_small(event['delta'])}"
        how = how if sure else f"changed the loss by {signed(event['delta'])}"
        read = f"{count(event['blocks'], 'block')} of {count(event['documents'], 'document')}"
        interval = f"95 % interval {signed(event['delta_low'])} to {signed(event['delta_high'])}, "
        message = f" ({interval if event['delta_low'] < event['delta_high'] else ''}{read})"
        return f"{name} {how}{message} and changed {event['flips']:.0%} of predictions."
    change = event["loss_after"] - event["loss_before"]
    if abs(change) < ROUNDING:
        return f"{name} changed the eval loss by no more than rounding."
    return f"{name} changed the eval loss by {signed(change)}." if change == change else f"{name}:"


def _dynamic(event: pd.Series, most: int) -> str:
    """What the loss did behind it; beside `most` placebo steps."""
    if event["spike"] != event["spike"]:
        return "Too few losses were logged around it to tell what followed."
    trend, twin = event["against"] == "trend", f"its twin {event['against']}"
    steps = count(int(event["recovery"]), "step")
    if event["spike"] <= max(TOLERANCE * event["noise"], ROUNDING):
        message = f"The loss stayed within the noise of {'its trend' if trend else f'its difference to {twin}'}"
    elif event["recovered"]:
        message = f"A loss spike of {event['spike']:.2f} over {'its trend' if trend else twin} was gone after {steps}"
    else:
        above = "its trend" if trend else twin
        message = f"A loss spike of {event['spike']:.2f} over {above} was not gone within {steps}"
    message += _unusual(event) if most else ""
    if not trend and event["late"] == event["late"]:
        side = "below" if event["late"] < 0 else "above"
        distinct_digits = "" if abs(event["late"]) < ROUNDING else f"{_small(event['late'])} {side} "
        message += f"; late in the window the loss was {distinct_digits}its twin's"
    return f"{message}."


def _unusual(event: pd.Series) -> str:
    """How unusual its spike is beside placebo steps, or why that cannot be told."""
    beside = count(event["placebos"], "placebo step")
    if event["spike_p"] == event["spike_p"]:
        by = "" if event["against"] == "trend" else "by its trend "
        least = f", which can give no p below {event['least_p']:.3f}" if event["least_p"] >= UNUSUAL else ""
        return f" ({by}p {_p(event['spike_p'])} over {event['reach']:.0f} steps beside {beside}{least})"
    if event["reach"] != event["reach"]:
        return ""
    if not isinstance(event["phase"], str):
        return f" (no p: the learning rate changes phase within {event['reach']:.0f} steps, or is not known)"
    return f" (no p: no placebo steps in the same phase of the learning rate, {event['phase']})"


def _layers(event: pd.Series, layers: pd.DataFrame, most: int) -> str:
    """Who was disturbed most; nothing where no placebo steps were asked for."""
    if not most:
        return ""
    mine = layers[layers["step"] == event["step"]]
    scored = mine[mine["score"].notna()]
    if not len(scored):
        return _unscored(event, mine.iloc[0]) if len(mine) else ""
    unusual = scored[scored["p"] < UNUSUAL]
    of = unusual if len(unusual) else scored
    first = of.loc[of["score"].idxmax()]
    highest = f"highest score {first['score']:.1f}, {_who(first)}"
    if not len(unusual) and not scored["least_p"].min() < UNUSUAL:
        why = "too few placebo checkpoints for a p"
        if scored["p"].notna().any():
            most_of = count(int(scored["placebos"].max()), "placebo checkpoint")
            why = f"{most_of} can give no p below {scored['least_p'].min():.3f}"
        more = "a larger --placebos allows" if most < ENOUGH else "a smaller checkpoint.every makes"
        more = f"{why}, and {more} more ({highest})"
        return f"Whether a layer was disturbed beyond the usual cannot be told: {more}."
    if not len(unusual):
        return f"No layer was disturbed beyond the usual ({highest})."
    words = f"Most disturbed was {_who(first)}: {_how(first)}, "
    others = unusual[unusual["layer"] != first["layer"]]["layer"]
    beside = (
        f"; beyond the usual {'was' if len(others) == 1 else 'were'} also {', '.join(others)}" if len(others) else ""
    )
    return f"{words}score {first['score']:.1f}, p {_p(first['p'])} of {first['placebos']} placebo checkpoints{beside}."


def _unscored(event: pd.Series, row: pd.Series) -> str:
    """Why layers have no score, and what would give them one."""
    import pandas as pd

    if pd.isna(row["stretch"]):
        why = f"no checkpoints lie equally far before and after it within {count(event['window'], 'step')}"
    elif not isinstance(row["phase"], str):
        why = f"the learning rate changes phase within {count(row['stretch'], 'step')}, or is not known"
    else:
        why = f"it has too few placebo checkpoints in the same phase of the learning rate ({row['phase']})"
    return f"Its layers have no score: {why}. A smaller checkpoint.every makes more checkpoints to hold them against."


def _how(row: pd.Series) -> str:
    """The component that a layer scores highest by, in words."""
    over = count(row["stretch"], "step") if row["excess"] == row["excess"] else ""
    message = {
        "forward": f"its output changed by {row['forward']:.1%}",
        "cka": f"its outputs lie in another geometry (1 − CKA {row['cka']:.2g})",
        "gradient": f"its gradient became {np.exp(row['gradient']):.2f} times as large on the spot",
        "turned": f"its gradient turned (1 − cosine {row['turned']:.2f})",
        "excess": f"it moved {np.exp(row['excess']):.2f} times as fast as {_usual(row)} over {over}",
        "logged": f"its gradient norm afterwards was {np.exp(row['logged']):.2f} times the usual",
    }
    return message[max(message, key=lambda name: np.nan_to_num(row[f"{name}_z"], nan=-np.inf))]


def _usual(row: pd.Series) -> str:
    return "its twin's" if row["against"] == "twin" else "usual"


def _who(row: pd.Series) -> str:
    """A layer and where it sits: `layer d, two above`."""
    import pandas as pd

    if pd.isna(row["distance"]):
        return f"layer {row['layer']}"
    where = int(row["distance"])
    if where == 0:
        return f"layer {row['layer']}, touched itself"
    return f"layer {row['layer']}, {WORDS.get(abs(where), abs(where))} {'above' if where > 0 else 'below'}"


def _small(value: float) -> str:
    return f"{abs(value):.3f}" if abs(value) >= 0.0005 else f"{abs(value):.1g}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value < UNUSUAL else f"{value:.2f}"


def _curves(found: Disturbance) -> pd.DataFrame:
    """The smoothed excess loss behind each event, as one table."""
    import pandas as pd

    names = dict(zip(found.events["step"], found.events["event"], strict=True))
    parts = []
    for step, after in found.curves.items():
        first = names[step].split()[0]
        layer = first.removeprefix("+") if first.startswith("+") else ""
        columns = {"since": after.steps - step, "excess": after.excess, "smooth": running_median(after.excess)}
        parts.append(pd.DataFrame({"step": step, "event": names[step], "layer": layer, **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _loss_words(found: Disturbance) -> str:
    known = found.events[found.events["spike"].notna()]
    gone, most = known[known["recovered"].astype(bool)], known.loc[known["spike"].idxmax()]
    words = f"The highest spike, {most['spike']:.2f}, is behind {most['event']} at step {most['step']:,}. "
    window, events = count(int(known["window"].iloc[0]), "step"), count(len(known), "event")
    words += f"Within {window} the loss was back behind {len(gone)} of {events}"
    if len(gone):
        words += f", after {count(int(gone['recovery'].median()), 'step')} in the median"
    return f"{words}. {spikes_beyond(known)}"


def spikes_beyond(known: pd.DataFrame) -> str:
    """How many of these spikes are unusual, among those that have placebo steps enough to be."""
    able = known[known["least_p"] < UNUSUAL]
    if not len(able):
        return "No spike has enough placebo steps to tell whether it is beyond what steps without events show."
    unusual, lack = int((able["spike_p"] < UNUSUAL).sum()), len(known) - len(able)
    others = f"; {lack} more {'has' if lack == 1 else 'have'} too few placebo steps to tell" if lack else ""
    are = "is" if unusual == 1 else "are"
    return f"{unusual} of {count(len(able), 'spike')} {are} beyond what steps without events show{others}."


def _layer_words(scored: pd.DataFrame) -> str:
    able = scored[scored["least_p"] < UNUSUAL]
    most = scored.loc[scored["score"].idxmax()]
    if len(able):
        unusual = int((able["p"] < UNUSUAL).sum())
        words = f"Of {count(len(able), 'pair')} of a layer and an event with enough placebo steps, "
        words += f"{unusual} {'scores' if unusual == 1 else 'score'} beyond what steps without events show"
        words += f" (by chance {UNUSUAL * len(able):.1f} would)"
    else:
        words = "No pair of a layer and an event has the 20 placebo steps that a p below 0.05 needs"
    return f"{words}; the highest score is of {_who(most)}, at {most['event']}: {most['score']:.1f}."


def _distance_words(moved: pd.DataFrame) -> str:
    parts = []
    for name, rows in (("above", moved[moved["distance"] > 0]), ("below", moved[moved["distance"] < 0])):
        if len(rows):
            parts.append(f"{name} the event {np.exp(rows['excess'].median()):.2f} times as fast as usual")
    return f"In the median layers moved {' and '.join(parts)}." if parts else "All layers were touched themselves."
