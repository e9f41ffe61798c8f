"""Report sections: summary, loss, lineage, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import lineage as lineage_figure
from pli_analysis.figures import loss as loss_figure
from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.report.key_figures import FULL_DEPTH_METHOD
from pli_analysis.report.parts import (
    ROUNDING,
    Figure,
    KeyFigure,
    Report,
    Section,
    distinct_digits,
    equal,
    sample,
    sentences,
)
from pli_analysis.runs.foreign import ForeignRun
from pli_train.core.errors import counted
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Lineage

SURE = 0.99
"""Matches below this confidence are listed in a table."""
LOSS_METHOD = [
    (
        "loss",
        "Mean of −log p over the target tokens, in nats. train: on the batch of each step, in training mode. eval: on "
        "the same held-out blocks at every evaluation, without dropout.",
    ),
    (
        "FLOPs",
        "Calculated from tensor shapes, not measured; forward and backward pass. Per token: 6 for each weight used in "
        "a matrix product at that step (Kaplan et al. 2020, arXiv:2001.08361), plus 12 · heads · head size · context "
        "for the attention of each layer (Chowdhery et al. 2022, arXiv:2204.02311).",
    ),
    ("seconds", "Training time, without evaluations and checkpoints."),
    FULL_DEPTH_METHOD,
    ("long curves", "Drawn by the lowest and the highest point of each interval."),
]
LINEAGE_METHOD = [
    (
        "layer id",
        "Assigned at birth, in order of creation, and never changed. The index is the position in the stack, which "
        "insertions shift. All measurements follow ids, so a shifted layer is still compared with itself.",
    ),
    ("donor", "The layer from which the weights of a new layer were copied."),
    ("birth weights", "The weights of a layer right after its creation, including any noise added then."),
]
INFERRED = (
    "confidence",
    "No lineage file was found, so it was inferred. The layers of consecutive checkpoints are matched in order, by the "
    "mean over their matrices of ‖x − y‖² ÷ (‖x‖² + ‖y‖²); among similar layers, by the direction in which the weights "
    "move. The confidence is higher the worse the second-best matching fits.",
)


def summary(run: Run, findings: list[tuple[str, str, str]]) -> Section:
    """Build the summary: facts about the run, and the findings of the other sections."""
    config, lineage = run.record.get("config", {}), run.lineage
    last, began = run.checkpoints[-1], len(run.beginning.stack)
    table = loss_metric.loss(run.scalars)
    evals = table[table[col.SPLIT] == "eval"]
    sizes = run.scalars.table(run_folder.PARAMETERS)[col.VALUE]
    facts = [
        ("Model", ", ".join(filter(None, (str(last.config.get("model_type")), last.anatomy.task, _width(last))))),
        ("Layers", f"{began} → {len(lineage.stack)}, {event_counts(lineage)}"),
        ("Current stack", str(lineage)),
        ("Steps", f"{last.step:,}" + (f" of {total:,}" if (total := run.record.get("total_steps")) else "")),
        ("Tokens", f"{last.tokens:,}" if last.tokens else ""),
        ("Corpus", str(run.record.get("corpus", {}).get("about", ""))),
        ("Learning rate", f"{optim['lr']}, {optim['schedule']}" if "lr" in (optim := config.get("optim", {})) else ""),
    ]
    if len(sizes):
        facts.insert(2, ("Parameters", f"{int(sizes.iloc[0]):,} → {int(sizes.iloc[-1]):,}"))
    facts += _eval_facts(run, evals[col.LOSS])
    if len(table) and table[col.FLOPS].max() > 0:
        facts.append(
            ("Compute", f"{table[col.FLOPS].max():.3g} FLOPs, {_duration(table[col.SECONDS].max())} of training")
        )
    return Section("summary", "Summary", facts=[fact for fact in facts if fact[1]], findings=findings)


def _eval_facts(run: Run, losses: pd.Series) -> list[tuple[str, str]]:
    """Return the estimated eval loss with its last standard error, and the loss over all held-out text."""
    if not len(losses):
        return []
    whole, tokens = (run.scalars.of(tag).values for tag in (run_folder.EVAL_LOSS_FULL, run_folder.EVAL_TOKENS_FULL))
    se = f" ({error})" if (error := standard_error(run)) else ""
    facts = [("Eval loss", f"{losses.iloc[0]:.3f} → {losses.iloc[-1]:.3f} nats per token{se}")]
    if len(whole) and len(tokens):
        facts.append(("Full eval loss", f"{whole[-1]:.3f} over all held-out text, {int(tokens[-1]):,} tokens"))
    return facts


def standard_error(run: Run) -> str:
    """Give the last standard error of the eval loss, in words; empty if none was logged."""
    error = run.scalars.of(run_folder.EVAL_LOSS_SE).values
    return f"standard error {error[-1]:.3f}" if len(error) else ""


def loss(run: Run) -> Section:
    """Build the section on loss over steps, tokens, FLOPs and seconds."""
    table = loss_metric.loss(run.scalars)
    damage = [f"Passed over: {line}." for line in run.scalars.damaged]
    if not len(table):
        return Section(
            "loss",
            "Loss",
            ["This run has no logged scalars (pli-train logs none with tracking.tensorboard = false).", *damage],
        )
    steps = lineage_metric.by_step(run.lineage)
    births = loss_metric.births(run.scalars, list(steps))
    drawing = loss_figure.figure(table, births, [together(labels) for labels in steps.values()])
    finding = _loss_words(table)
    kinds = table[col.SPLIT].value_counts()
    counts = sample(*(f"{kinds[kind]:,} {kind} losses" for kind in ("train", "eval") if kind in kinds))
    figure = Figure("loss", "Loss over training", f"{finding} {counts}", drawing, table)
    headline = finding if (table[col.SPLIT] == "eval").sum() > 1 else ""
    return Section("loss", "Loss", damage, figures=[figure], headline=headline, method=LOSS_METHOD)


def lineage(run: Run) -> Section:
    """Build the section on lineage: births, donors, and the index of each layer over time."""
    events, finding = lineage_metric.events(run.lineage), _lineage_words(run.lineage)
    figure = stack("lineage", "Layer stack over training", finding, run)
    words = sentences(run.notes)
    tables = [("Growth events", events)] if len(events) else []
    if run.confidence is not None:
        unsure = run.confidence[(run.confidence[col.CONFIDENCE] < SURE) | run.confidence[col.MATCHED_INDEX].isna()]
        tables += [("Inserted layers and uncertain matches", unsure)] if len(unsure) else []
    method = LINEAGE_METHOD if run.confidence is None else [*LINEAGE_METHOD, INFERRED]
    return Section("lineage", "Lineage", words, figures=[figure], tables=tables, headline=finding, method=method)


def stack(id: str, title: str, caption: str, run: Run) -> Figure:
    """Draw a run's stack over time."""
    layers = lineage_metric.layers(run.lineage, run.confidence)
    locations = lineage_metric.locations(run.lineage, run.checkpoints[-1].step)
    return Figure(id, title, caption, lineage_figure.figure(layers, locations), layers)


def made(lineage: Lineage) -> str:
    """Describe the stack and the number of events that produced it: `2 growth events produced the stack a c b`."""
    return f"{event_counts(lineage)} produced the stack {lineage}"


def event_counts(lineage: Lineage) -> str:
    """Describe the number of growth events and of removals: `2 growth events and 1 removal`."""
    removed = lineage_metric.removals(lineage)
    grown = len(lineage.events) - removed
    counts = [counted(grown, "growth event")] if grown or not removed else []
    return " and ".join(counts + ([counted(removed, "removal")] if removed else []))


def of_lineage(run: Run) -> Report:
    """Build a report with the lineage section only."""
    return Report(run.name, lead(run), [lineage(run)])


def provenance(run: Run) -> Section:
    """Build the section with what is needed to reproduce the run: command, seed, versions, config."""
    import pandas as pd

    record = run.record
    facts = [fact for fact in origin(run) if fact[1]]
    config = pd.DataFrame(
        [(key, value) for key, value in run_folder.flatten(record.get("config", {})).items() if value is not None],
        columns=["key", "value"],
    )
    words = [f"Passed over: {line}." for line in run.damaged]
    tables = [("Configuration", config)] if len(config) else []
    if "config" not in record:
        words.append("These checkpoints were not written by pli-train: their training configuration is not known.")
    return Section("provenance", "Provenance", words, facts=facts, tables=tables)


def origin(run: Run) -> list[tuple[str, str]]:
    """Return command, start, seed, corpus and versions of a run as (label, value); unknown values are empty."""
    record = run.record
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    return [
        ("Command", " ".join(map(str, record.get("command", [])))),
        ("Started", str(record.get("created", ""))),
        ("Seed", str(record.get("seed", ""))),
        ("Corpus fingerprint", str(record.get("corpus", {}).get("fingerprint", ""))),
        ("Versions", versions),
    ]


def lead(run: Run) -> str:
    """Describe the run in one sentence."""
    found, last = run.lineage, run.checkpoints[-1]
    if len(run.checkpoints) == 1 and not found.events:
        return f"A {last.config.get('model_type')} at a single checkpoint: there is nothing to compare it with."
    verb = "changed" if lineage_metric.removals(found) else "grew"
    grown = f"{verb} from {len(run.beginning.stack)} to {len(found.stack)} layers" if found.events else "did not grow"
    # Checkpoints without a known step are numbered in the given order, so their numbers are no steps.
    numbered = isinstance(run, ForeignRun) and bool(run.counted)
    length = counted(len(run.checkpoints), "checkpoint") if numbered else counted(last.step, "step")
    return f"A {last.config.get('model_type')} that {grown} over {length}."


def verdict(run: Run, figures: Sequence[KeyFigure]) -> str:
    """Describe in a sentence how the run ended, from the key figures of loss and FLOPs; empty without a loss.

    One run cannot show what growth changed, and the sentence says so.
    """
    values = {figure.label: figure.values[0][0] for figure in figures}
    if not values:
        return ""
    name, loss = next(iter(values.items()))
    share = next((value for label, value in values.items() if label.startswith("FLOPs")), None)
    depth = counted(len(run.lineage.stack), "layer")
    cost = f", with {share} of the FLOPs that {depth} from the start would take" if share else ""
    alone = "; one run is no comparison" if run.lineage.events else ""
    return f"The {name[0].lower()}{name[1:]} is {loss}{cost}{alone}."


def together(labels: list[str]) -> str:
    """Label several events of one step in a figure: births joined, other events counted."""
    births = "".join(label for label in labels if label.startswith("+"))
    others = [label for label in labels if not label.startswith("+")]
    return " ".join(filter(None, [births, others[0] if len(others) == 1 else f"{len(others)} more" if others else ""]))


def _loss_words(table: pd.DataFrame) -> str:
    """Describe the first and the last eval loss, and at how many evaluations it fell."""
    evals = table[table[col.SPLIT] == "eval"].sort_values(col.STEP)
    if len(evals) < 2:
        return "Loss of each training step."
    losses, steps = evals[col.LOSS], len(evals) - 1
    falls = (losses.diff().dropna() < -ROUNDING * losses.iloc[:-1].to_numpy()).sum()
    first, last = losses.iloc[0], losses.iloc[-1]
    if equal(first, last):
        return f"Eval loss was {first:.3f} at both the first and the last evaluation."
    start, end = distinct_digits(first, last, digits=3)
    how = "at every evaluation" if falls == steps else f"at {falls} of {steps} evaluations"
    return f"Eval loss went from {start} to {end}; it decreased {how}."


def _lineage_words(found: Lineage) -> str:
    """Describe the final stack and the indices of the initial layers."""
    if not found.events:
        return f"No growth: the stack remained {found}."
    founders = [id for id, layer in found.layers.items() if layer.birth.event is None]
    remaining = [id for id in found.stack if id in founders]
    if not remaining:
        return f"{made(found)}; {'none of the initial layers remains' if founders else 'it had no initial layers'}."
    indices = ", ".join(f"{id} is at index {found.index(id)}" for id in remaining[:3])
    gone = [id for id in found.layers if id not in found.stack]
    removed = f"; removed: {', '.join(gone)}" if gone else ""
    return f"{made(found)}; of the initial layers, {indices}{removed}."


def _width(checkpoint: Checkpoint) -> str:
    width = checkpoint.config.get(checkpoint.anatomy.config.get("hidden", "hidden_size"))
    return "" if width is None else f"width {width}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
