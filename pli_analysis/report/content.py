"""What a report says: sections of findings in words, figures and tables, each told once for page and terminal.

A section is one function from a Run to a Section. `SECTIONS` puts them in order; one whose data is missing says so in
a line and shows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.figures import drift as drift_figures
from pli_analysis.figures import embed as embed_figure
from pli_analysis.figures import gradnorms as gradnorms_figure
from pli_analysis.figures import lineage as lineage_figure
from pli_analysis.figures import loss as loss_figure
from pli_analysis.metrics import drift as drift_metric
from pli_analysis.metrics import embed as embed_metric
from pli_analysis.metrics import gradnorms as gradnorms_metric
from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.metrics import loss as loss_metric
from pli_train import anatomy, run_folder

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from pli_analysis.metrics.embed import Map
    from pli_analysis.metrics.projections import Components
    from pli_analysis.run import Run
    from pli_train.lineage import Lineage


MOST_STEPS = 120
"""Steps at most that a heat map draws, so that a page of a long run stays light."""
FEWEST_POINTS = 5
"""Layers at checkpoints below which there is no map."""
SURE = 0.99
"""Confidence from which on a match is not told by itself."""
MAP_EXACT = 1e11
"""Multiply-adds that the map may take; beyond, weights are sketched, so that the page comes soon."""


@dataclass(frozen=True)
class Figure:
    """A figure: an id, a title, a caption that states its finding, the drawing, and the table behind it."""

    id: str
    title: str
    caption: str
    drawing: go.Figure
    table: pd.DataFrame


@dataclass(frozen=True)
class Section:
    """A part of the report. `facts` are label and value; `words` are paragraphs."""

    id: str
    title: str
    words: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything there is to tell about one run."""

    title: str
    lead: str
    sections: list[Section]


def tell(run: Run) -> Report:
    """Read a run and say what it did. Raises BadInput when it cannot be read."""
    return Report(run.name, _lead(run), [section(run) for section in SECTIONS])


# --- sections -------------------------------------------------------------------------------------------------------


def summary(run: Run) -> Section:
    """The run in a dozen facts."""
    config, lineage = run.record.get("config", {}), run.lineage
    first, last = run.checkpoints[0], run.checkpoints[-1]
    table = loss_metric.loss(run.scalars)
    evals = table[table["kind"] == "eval"]
    sizes = run.scalars.table(run_folder.PARAMETERS)["value"]
    facts = [
        ("Model", f"{last.config.get('model_type')}, {last.anatomy.task}, width {_width(last.config)}"),
        ("Layers", f"{len(first.lineage.stack)} → {len(lineage.stack)}, {_count(len(lineage.events), 'growth event')}"),
        ("Stack now", str(lineage)),
        ("Steps", f"{last.step:,}" + (f" of {total:,}" if (total := run.record.get("total_steps")) else "")),
        ("Tokens", f"{last.tokens:,}" if last.tokens else ""),
        ("Corpus", str(run.record.get("corpus", {}).get("about", ""))),
        ("Learning rate", f"{optim['lr']}, {optim['schedule']}" if "lr" in (optim := config.get("optim", {})) else ""),
    ]
    if len(sizes):
        facts.insert(2, ("Parameters", f"{int(sizes.iloc[0]):,} → {int(sizes.iloc[-1]):,}"))
    if len(evals):
        facts.append(("Eval loss", f"{evals['loss'].iloc[0]:.3f} → {evals['loss'].iloc[-1]:.3f} nats per token"))
    if len(table) and table["flops"].max() > 0:
        facts.append(("Compute", f"{table['flops'].max():.3g} FLOPs, {_duration(table['seconds'].max())} of training"))
    return Section("summary", "Summary", facts=[fact for fact in facts if fact[1]])


def loss(run: Run) -> Section:
    """Loss against steps, tokens, FLOPs and seconds."""
    table = loss_metric.loss(run.scalars)
    damage = [f"Passed over: {line}." for line in run.scalars.damaged]
    if not len(table):
        return Section(
            "loss", "Loss", ["This run logged no scalars (in a run of ours: tracking.tensorboard was off).", *damage]
        )
    steps = _event_steps(run.lineage)
    births = loss_metric.births(run.scalars, list(steps))
    drawing = loss_figure.figure(table, births, [_together(labels) for labels in steps.values()])
    figure = Figure("loss", "Loss over training", _loss_words(run, table), drawing, table)
    return Section("loss", "Loss", damage, figures=[figure])


def lineage(run: Run) -> Section:
    """Who sits where, and who came from whom."""
    found, last = run.lineage, run.checkpoints[-1].step
    layers, places = lineage_metric.layers(found, run.confidence), lineage_metric.places(found, last)
    events = lineage_metric.events(found)
    drawing = lineage_figure.figure(layers, places)
    figure = Figure("lineage", "The stack over time", _lineage_words(found), drawing, layers)
    words = [f"{note[0].upper()}{note[1:]}." for note in run.notes]
    tables = [("Growth events", events)] if len(events) else []
    if run.confidence is not None:
        told = run.confidence[(run.confidence["confidence"] < SURE) | run.confidence["matched"].isna()]
        tables += [("Newborn layers, and matches that are not certain", told)] if len(told) else []
    return Section("lineage", "Lineage", words, figures=[figure], tables=tables)


def drift(run: Run) -> Section:
    """How far each layer moved from its birth weights."""
    table = drift_metric.drift(run)
    words = [
        "Drift compares a layer with its own birth weights, found by its id: insertions that moved its index do not "
        "count as movement. Relative L2 is ‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖; cosine is 1 − cos(θ(t), θ(b))."
    ]
    figures = [
        Figure("drift-map", "Relative L2 drift of each layer", _map_words(table), drift_figures.heat_map(table), table),
        Figure(
            "drift-curves",
            "Drift over steps and age",
            _age_words(table, run.lineage),
            drift_figures.curves(table),
            table,
        ),
        Figure(
            "drift-cosine",
            "Turning: 1 − cosine to the birth weights",
            _cosine_words(table),
            drift_figures.curves(table, "cosine"),
            table,
        ),
    ]
    return Section("drift", "Drift", words, figures=figures)


def paths(run: Run) -> Section:
    """The paths of all layers through the space of their weights, in one plane."""
    found = embed_metric.points_of(run)
    title = "Map of the layers"
    if len(found) < FEWEST_POINTS:
        told = f"{_count(len(found), 'point')}, a layer at a checkpoint each, are too few for a map."
        return Section("map", title, [told])
    return _map(embed_metric.embed(run, exact=MAP_EXACT), title, "layers", "weights")


def of_map(name: str, found: Map, of: str, space: str) -> Report:
    """A report on a map alone.

    Args:
        name: of the run.
        found: the map.
        of: what its points are: layers, heads or ffn.
        space: weights, updates or function.
    """
    points = (found.table["walk"] == "run").sum()
    what = {"layers": "layers", "heads": "heads", "ffn": "FFNs"}[of]
    lead = f"{points:,} points: {what} at checkpoints, by their {'outputs' if space == 'function' else space}."
    return Report(name, lead, [_map(found, f"Map of the {what}", what, space)])


def _map(found: Map, title: str, what: str, space: str) -> Section:
    """A map with its caption."""
    walk = found.walk
    shares = {"run": _two(found.components)} | ({} if walk is None else {"random": _two(walk)})
    drawing = embed_figure.figure(
        found.table, found.method, shares if found.method == "pca" else None, donors=not found.since_birth
    )
    begins = "all births lie in one point" if found.since_birth else "dotted lines lead from donors to their clones"
    told = (
        f"Each path is one of the {what} from birth (ring) to its last checkpoint (name); {begins}. All points are "
        "fitted together. "
    )
    if walk is not None:
        told += (
            "The random walk has the same births, donors and lengths of steps, each step in a direction of its own. It "
            "draws smooth curves as well: a curve as such is no finding."
        )
    figure = Figure("map", title, _map_figure_words(found, space), drawing, found.table)
    return Section("map", title, [told.strip()], figures=[figure])


def gradnorms(run: Run) -> Section:
    """The gradient norms of heads and FFNs over training."""
    return _gradnorms(gradnorms_metric.logged(run.scalars, run.lineage), run.lineage)


def of_gradnorms(name: str, table: pd.DataFrame, lineage: Lineage | None) -> Report:
    """A report on gradient norms alone, of whatever logged them.

    Args:
        name: of the run.
        table: of `pli_analysis.metrics.gradnorms.logged`, not empty.
    """
    measured = table["step"].nunique()
    return Report(name, f"Gradient norms by part, measured at {measured:,} steps.", [_gradnorms(table, lineage)])


def _gradnorms(table: pd.DataFrame, lineage: Lineage | None) -> Section:
    title = "Gradient norms"
    if not len(table):
        told = "This run logged no gradient norms (train.grad_norms_every was 0, or tracking.tensorboard off)."
        return Section("gradnorms", title, [told])
    words = [
        "A norm is the L2 norm of a part's share of the gradient before clipping; squares over all parts sum to the "
        "square of the total. A part is followed by its id from its first gradient on."
    ]
    figures, tables = [], []
    drawn = table[table["level"].isin(gradnorms_figure.LEVELS)]
    if len(drawn):
        shown = gradnorms_metric.thinned(drawn, MOST_STEPS)
        events = {step: _together(labels) for step, labels in _event_steps(lineage).items()} if lineage else {}
        caption = _norms_words(table, shown)
        drawing = gradnorms_figure.heat_map(shown, events)
        figures = [Figure("gradnorms", "Gradient norm of each head and FFN", caption, drawing, shown)]
    if lineage is not None and lineage.events:
        around = gradnorms_metric.around(table, lineage)
        words += _around_words(table, around)
        layers = around[around["level"].isin(("total", "layer"))].reset_index(drop=True)
        tables = [("Gradient norms around each growth event", layers)] if len(layers) else []
    return Section("gradnorms", title, words, figures=figures, tables=tables)


def provenance(run: Run) -> Section:
    """What it takes to run this again."""
    import pandas as pd

    record = run.record
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    facts = [
        ("Command", " ".join(map(str, record.get("command", [])))),
        ("Begun", str(record.get("created", ""))),
        ("Seed", str(record.get("seed", ""))),
        ("Corpus fingerprint", str(record.get("corpus", {}).get("fingerprint", ""))),
        ("Versions", versions),
    ]
    facts = [fact for fact in facts if fact[1]]
    config = pd.DataFrame(
        [(key, value) for key, value in run_folder.flatten(record.get("config", {})).items() if value is not None],
        columns=["key", "value"],
    )
    words = [f"Passed over: {line}." for line in run.damaged]
    tables = [("Configuration", config)] if len(config) else []
    if "config" not in record:
        words.append("Checkpoints that no run of ours wrote: how they came to be is not known here.")
    return Section("provenance", "Provenance", words, facts, tables=tables)


SECTIONS: list[Callable[[Run], Section]] = [summary, loss, lineage, drift, paths, gradnorms, provenance]


# --- findings in words ----------------------------------------------------------------------------------------------


def _lead(run: Run) -> str:
    first, found, last = run.checkpoints[0], run.lineage, run.checkpoints[-1]
    grown = f"grew from {len(first.lineage.stack)} to {len(found.stack)} layers" if found.events else "did not grow"
    return f"A {last.config.get('model_type')} that {grown} over {last.step:,} steps."


def _loss_words(run: Run, table: pd.DataFrame) -> str:
    evals = table[table["kind"] == "eval"].sort_values("step")
    if len(evals) < 2:
        return "Loss of each training step."
    falls = (evals["loss"].diff().dropna() < 0).sum()
    start, end, count = evals["loss"].iloc[0], evals["loss"].iloc[-1], len(evals) - 1
    how = "at every evaluation" if falls == count else f"at {falls} of {count} evaluations"
    words = f"Eval loss went from {start:.3f} to {end:.3f}; it fell {how}."
    jumps = _jumps(run)
    if jumps:
        event, jump = max(jumps, key=lambda pair: abs(pair[1]))
        words += f" On the spot, {event} changed eval loss most, by {jump:+.3f}"
        words += f"; the last event changed it by {jumps[-1][1]:+.3f}." if len(jumps) > 1 else "."
    return words


def _jumps(run: Run) -> list[tuple[str, float]]:
    """For each step with events: what happened, and by how much eval loss changed on the spot."""
    before = run.scalars.table(run_folder.EVAL_LOSS).set_index("step")["value"]
    after = run.scalars.table(run_folder.EVAL_LOSS_AFTER_EVENT).set_index("step")["value"]
    steps = _event_steps(run.lineage)
    return [
        (f"{' and '.join(labels)} at step {step}", float(after[step] - before[step]))
        for step, labels in steps.items()
        if step in before.index and step in after.index
    ]


def _lineage_words(found: Lineage) -> str:
    if not found.events:
        return f"No growth: the stack stayed {found}."
    founders = [id for id in found.stack if found.layers[id].birth.event is None]
    places = ", ".join(f"{id} now sits at index {found.index(id)}" for id in founders[:3])
    made = f"{_count(len(found.events), 'growth event')} made the stack {found}"
    return f"{made}; of the founders, {places}." if founders else f"{made}; it began with none."


def _map_words(table: pd.DataFrame) -> str:
    last = table[table["checkpoint"] == table["checkpoint"].iloc[-1]].sort_values("relative_l2")
    most, least = last.iloc[-1], last.iloc[0]
    if len(last) == 1:
        return f"At the end layer {most['part']} lies {most['relative_l2']:.2f} of its birth norm from where it began."
    return (
        f"At the end layer {most['part']} (age {most['age']:,}) lies farthest from its birth weights, "
        f"{most['relative_l2']:.2f} of their norm; layer {least['part']} (age {least['age']:,}) nearest, "
        f"{least['relative_l2']:.2f}."
    )


def _age_words(table: pd.DataFrame, lineage: Lineage) -> str:
    """Founders against newborns at one age, the greatest that all of them have reached a checkpoint by."""
    parts = list(dict.fromkeys(table["part"]))
    founders = [part for part in parts if lineage.layers[part].birth.event is None]
    newborns = [part for part in parts if part not in founders]
    if not newborns:
        return "Every layer has been there from the start, so step and age are one."
    if not founders:
        return "No layer has been there from the start: all were inserted."
    age = int(table.groupby("part")["age"].max().min())
    at = {part: _at_age(rows, age) for part, rows in table.groupby("part")}
    old, new = ([at[part] for part in parts] for parts in (founders, newborns))
    return (
        f"At equal age, {age:,} steps after birth, founders had moved {sum(old) / len(old):.2f} of their norm and "
        f"inserted layers {min(new):.2f} to {max(new):.2f}. One run and {len(at)} layers: a description, not a test."
    )


def _at_age(rows: pd.DataFrame, age: int) -> float:
    return float(np.interp(age, rows["age"], rows["relative_l2"]))


def _cosine_words(table: pd.DataFrame) -> str:
    last = table[table["checkpoint"] == table["checkpoint"].iloc[-1]].sort_values("cosine")
    most = last.iloc[-1]
    return f"Layer {most['part']} has turned most: the cosine to its birth weights is {1 - most['cosine']:.2f}."


def _map_figure_words(found: Map, space: str) -> str:
    """How far the parts went beside a random walk, and how much of it the plane shows."""
    words, travel = "", found.travel
    if travel and space != "updates":
        most, least = max(travel, key=lambda part: travel[part]), min(travel, key=lambda part: travel[part])
        went = f"{most} got {travel[most]:.2f} times as far from its birth as a random walk of the same steps would"
        words = f"{went}; {least}, at the other end, {travel[least]:.2f} times. " if most != least else f"{went}. "
    if found.method == "pca":
        share = sum(_two(found.components))
        words += f"The plane holds {share:.0%} of the variance"
        words += f" (a random walk's plane {sum(_two(found.walk)):.0%} of its own). " if found.walk else ". "
    else:
        name = {"tsne": "t-SNE", "umap": "UMAP"}[found.method]
        words += f"{name} keeps neighbours: neither distances between groups nor their sizes mean anything. "
    if found.trust is not None:
        words += f"Trustworthiness is {found.trust[0]:.2f} over {found.trust[1]} neighbours. "
    if found.error is not None:
        words += f"Distances are sketched: off by {found.error[0]:.1%} at most, {found.error[1]:.1%} in the median. "
    return words.strip()


def _two(components: Components) -> tuple[float, float]:
    return float(components.shares[0]), float(components.shares[1])


def _norms_words(table: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Who has most of the gradient at the end, and how far heads lie apart."""
    last = table[table["step"] == table["step"].max()]
    step = f"At step {last['step'].iloc[0]:,}"
    words, total, layers = "", last[last["level"] == "total"], last[last["level"] == "layer"]
    if len(total) and len(layers):
        whole, most = total["norm"].iloc[0], layers.sort_values("norm").iloc[-1]
        share = (most["norm"] / whole) ** 2 if whole else 0.0
        words = f"{step} the gradient's norm is {whole:.3g}, and layer {most['part']} has {share:.0%} of its square. "
    for level, many in (("head", "heads"), ("ffn", "FFNs")):
        found = last[last["level"] == level].sort_values("norm")
        if len(found) > 1 and found["norm"].iloc[0] > 0:
            low, high = found.iloc[0], found.iloc[-1]
            times = high["norm"] / low["norm"]
            words += f"Of the {many}, {high['part']} has the largest norm, {times:.1f} times that of {low['part']}. "
    drawn, measured = shown["step"].nunique(), table["step"].nunique()
    return words + f"Drawn: {'all' if drawn == measured else f'{drawn} of'} {measured:,} measurements."


def _around_words(table: pd.DataFrame, around: pd.DataFrame) -> list[str]:
    """What growth did to the norms of what was there, and how newborn layers begin."""
    words = []
    totals = around[(around["level"] == "total") & (around["change"] > 0)]
    if len(totals):
        low, high = totals["change"].min(), totals["change"].max()
        most = totals.loc[np.log(totals["change"]).abs().idxmax()]
        words.append(
            f"Over {_count(len(totals), 'step')} with growth, the total norm afterwards was {low:.2f} to {high:.2f} "
            f"times the norm before; {most['event']} at step {most['step']:,} changed it most, from "
            f"{most['before']:.3g} to {most['after']:.3g}. These are medians of up to three measurements a side, of "
            "one run: a description, not a test."
        )
    layers = table[table["level"] == "layer"]
    first = layers.drop_duplicates("part", keep="first")
    ratios = {}
    for born in first[first["age"] == 1].itertuples():
        older = layers[(layers["step"] == born.step) & (layers["age"] > 1)]["norm"]
        if len(older) and older.median() > 0:
            ratios[born.part] = born.norm / older.median()
    if ratios:
        each = ", ".join(f"{part} {ratio:.2f}" for part, ratio in ratios.items())
        words.append(f"First gradient norm of each inserted layer ÷ median of the layers there before: {each}.")
    return words


def _event_steps(found: Lineage) -> dict[int, list[str]]:
    """Step → what happened there, in a word or two each."""
    steps: dict[int, list[str]] = {}
    for event in found.events:
        steps.setdefault(event.step, []).append(lineage_metric.label(event))
    return steps


def _together(labels: list[str]) -> str:
    """Several events of one step in the margin of a figure: births in a row, the rest counted."""
    births = "".join(label for label in labels if label.startswith("+"))
    others = [label for label in labels if not label.startswith("+")]
    return " ".join(filter(None, [births, others[0] if len(others) == 1 else f"{len(others)} more" if others else ""]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _width(config: dict[str, Any]) -> Any:
    return config.get(anatomy.family(str(config.get("model_type"))).config["hidden"])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
