"""What there is to tell of disturbance: a sentence or two for each growth event, figures, and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.figures import disturbance as figures
from pli_analysis.metrics import disturbance as metric
from pli_analysis.metrics.aftermath import running_median
from pli_analysis.metrics.scene import twins_beside
from pli_analysis.report.parts import Figure, Report, Section, sentences, signed

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.disturbance import Disturbance
    from pli_analysis.run import Run

TITLE = "Disturbance"
UNUSUAL = 0.05
BLOCKS, PLACEBOS = 8, 24
"""What a report reads: enough for a p-value below 0.05, and little more."""
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
        "Held against the twin's, or against Theil and Sen's line (Sen 1968) over log step through the steps before, "
        "and smoothed by a running median of 5. A spike is gone once it is within two deviations of that line.",
    ),
    (
        "movement",
        "Of a layer, the speed ‖Δθ‖ ÷ (‖θ‖ · Σ learning rates) after ÷ before the event, held against its twin's, or "
        "against the same ratio at placebo steps, which have no event near.",
    ),
    (
        "score, p",
        "Deviations of a component from the median of placebo steps by their MAD; a layer's score is its largest. p is "
        "the share of placebo steps that score as high (Phipson and Smyth 2010), not corrected for their number. "
        "Layers and events of one run are no replicates.",
    ),
]


def tell(run: Run, found: Disturbance) -> Report:
    """The page on disturbance alone."""
    lead = f"What {len(found.events)} steps with growth events did to the loss and to the layers that were there."
    return Report(run.name, lead, [section(found)])


def disturbance(run: Run) -> Section:
    """What growth disturbed, in the time that a report has."""
    if not run.lineage.events:
        return Section("disturbance", TITLE, ["This run did not grow, so that nothing was disturbed."])
    return section(measured(run))


def measured(run: Run) -> Disturbance:
    """What a report measures of a run that grew."""
    return metric.disturbance(run, twins_beside(run), blocks=BLOCKS, most=PLACEBOS)


def section(found: Disturbance) -> Section:
    """All there is to tell: words, figures, tables."""
    points = [_split(event, told) for (_, event), told in zip(found.events.iterrows(), readings(found), strict=True)]
    shown, headline = [], ""
    curves = _curves(found)
    if len(curves):
        drawing, headline = figures.losses(curves), _loss_words(found)
        shown.append(Figure("disturbance-loss", "Loss behind each growth event", headline, drawing, curves))
    layers = found.layers
    if len(scored := layers[layers["score"].notna()]):
        caption, drawing = _layer_words(scored), figures.heat_map(layers)
        shown.append(Figure("disturbance-layers", "Who was disturbed", caption, drawing, layers))
    if len(moved := layers[layers["excess"].notna() & layers["distance"].notna()]):
        caption, drawing = _distance_words(moved), figures.by_distance(moved)
        shown.append(Figure("disturbance-distance", "Movement over distance from the event", caption, drawing, moved))
    tables = [("Growth events", found.events)]
    words = sentences(found.notes)
    return Section("disturbance", TITLE, words, points, figures=shown, tables=tables, headline=headline, method=METHOD)


def readings(found: Disturbance) -> list[str]:
    """Each event in plain words."""
    return [
        " ".join(filter(None, [_instant(event), _dynamic(event), _layers(event, found.layers)]))
        for _, event in found.events.iterrows()
    ]


def _split(event: pd.Series, told: str) -> tuple[str, str]:
    """The name of an event, and what is told of it."""
    return _name(event), told.removeprefix(_name(event)).lstrip(" :")


def _name(event: pd.Series) -> str:
    return f"{event['event']} at step {event['step']:,}"


def _instant(event: pd.Series) -> str:
    """What it did on the spot."""
    name = _name(event)
    if event["delta"] == event["delta"]:
        if event["delta"] == 0 and event["flips"] == 0 and event["kl"] == 0:
            return f"{name} changed no prediction on the spot."
        how = "raised" if event["delta"] > 0 else "lowered"
        interval = f" (95 % interval {signed(event['delta_low'])} to {signed(event['delta_high'])})"
        told = interval if event["delta_low"] < event["delta_high"] else ""
        return (
            f"{name} {how} the loss by {_small(event['delta'])}{told} and changed {event['flips']:.0%} of predictions."
        )
    change = event["loss_after"] - event["loss_before"]
    return f"{name} changed the eval loss by {signed(change)}." if change == change else f"{name}:"


def _dynamic(event: pd.Series) -> str:
    """What the loss did behind it."""
    if event["spike"] != event["spike"]:
        return "Too few losses were logged around it to tell what followed."
    against = "its trend" if event["against"] == "trend" else f"its twin {event['against']}"
    steps = int(event["recovery"])
    if event["spike"] <= 2 * event["noise"]:
        told = f"The loss never stood out from {against}"
    elif event["recovered"]:
        told = f"A loss spike of {event['spike']:.2f} over {against} was gone after {steps} steps"
    else:
        told = f"A loss spike of {event['spike']:.2f} over {against} was not gone within {steps} steps"
    if event["spike_p"] == event["spike_p"]:
        by = "" if event["against"] == "trend" else "by its trend "
        told += f" ({by}p {_p(event['spike_p'])} beside {event['placebos']} placebo steps)"
    if event["against"] != "trend" and event["late"] == event["late"]:
        side = "below" if event["late"] < 0 else "above"
        told += f"; late in the window the loss was {abs(event['late']):.3f} {side} its twin's"
    return f"{told}."


def _layers(event: pd.Series, layers: pd.DataFrame) -> str:
    """Who was disturbed most."""
    mine = layers[(layers["step"] == event["step"]) & layers["score"].notna()]
    if not len(mine):
        return ""
    most = mine.loc[mine["score"].idxmax()]
    if most["p"] >= UNUSUAL:
        return f"No layer was disturbed beyond the usual (highest score {most['score']:.1f}, {_who(most)})."
    words = f"Most disturbed was {_who(most)}: {_how(most)}, "
    others = mine[(mine["p"] < UNUSUAL) & (mine["layer"] != most["layer"])]["layer"]
    beside = (
        f"; beyond the usual {'was' if len(others) == 1 else 'were'} also {', '.join(others)}" if len(others) else ""
    )
    return f"{words}score {most['score']:.1f}, p {_p(most['p'])}{beside}."


def _how(row: pd.Series) -> str:
    """The component that a layer scores highest by, in words."""
    told = {
        "forward": f"its output changed by {row['forward']:.1%}",
        "cka": f"its outputs lie in another geometry (1 − CKA {row['cka']:.2g})",
        "gradient": f"its gradient became {np.exp(row['gradient']):.2f} times as large on the spot",
        "turned": f"its gradient turned (1 − cosine {row['turned']:.2f})",
        "excess": f"it moved {np.exp(row['excess']):.2f} times as fast as usual over {row['stretch']} steps",
        "logged": f"its gradient norm afterwards was {np.exp(row['logged']):.2f} times the usual",
    }
    return told[max(told, key=lambda name: np.nan_to_num(row[f"{name}_z"], nan=-np.inf))]


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
    words += f"Within {int(known['window'].iloc[0])} steps the loss was back behind {len(gone)} of {len(known)} events"
    if len(gone):
        words += f", after {int(gone['recovery'].median())} steps in the median"
    unusual = int((known["spike_p"] < UNUSUAL).sum())
    return f"{words}. {unusual} of {len(known)} spikes are beyond what steps without events show."


def _layer_words(scored: pd.DataFrame) -> str:
    unusual = scored[scored["p"] < UNUSUAL]
    most = scored.loc[scored["score"].idxmax()]
    words = (
        f"Of {len(scored)} pairs of a layer and an event, {len(unusual)} score beyond what steps without events show"
    )
    chance = f" (by chance {UNUSUAL * len(scored):.0f} would)"
    return f"{words}{chance}; the highest is {_who(most)}, at {most['event']}: {most['score']:.1f}."


def _distance_words(moved: pd.DataFrame) -> str:
    parts = []
    for name, rows in (("above", moved[moved["distance"] > 0]), ("below", moved[moved["distance"] < 0])):
        if len(rows):
            parts.append(f"{name} the event {np.exp(rows['excess'].median()):.2f} times as fast as usual")
    return f"In the median layers moved {' and '.join(parts)}." if parts else "All layers were touched themselves."
