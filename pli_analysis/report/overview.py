"""Report sections: summary, loss, lineage, provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import lineage as lineage_figure
from pli_analysis.figures import loss as loss_figure
from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.report.parts import (
    ROUNDING,
    Figure,
    Report,
    Section,
    count,
    distinct_digits,
    equal,
    sample,
    sentences,
)
from pli_analysis.runs.foreign import ForeignRun
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Lineage

SURE = 0.99
"""Confidence from which on a match is not told by itself."""
LOSS_METHOD = [
    (
        "loss",
        "−log p of the target in nats, averaged over targets: of a step's own batch in training mode (train), and of "
        "the same held-out blocks each time, without dropout (eval).",
    ),
    (
        "FLOPs",
        "Counted on paper, forward and backward: per token 6 for each weight of a matrix product of the stack as it "
        "was (Kaplan et al. 2020, arXiv:2001.08361) and 12 · heads · head size · context a layer for attention "
        "(Chowdhery et al. 2022, arXiv:2204.02311).",
    ),
    ("seconds", "Of training alone: evaluations and checkpoints are left out."),
    ("many points", "Of a curve with more points than are drawn, each stretch keeps its lowest and its highest."),
]
LINEAGE_METHOD = [
    (
        "layer id",
        "Given once, at birth, in the order of creation. The index is where a layer sits and the id is who it is. All "
        "here follows ids, so that a layer which an insertion shifted is compared with itself.",
    ),
    ("donor", "The layer that a newborn's weights were copied from."),
    ("birth weights", "Those right after creation, noise included."),
]
INFERRED = (
    "confidence",
    "No lineage was written. Layers of neighboring checkpoints are matched, in order, by the mean over their matrices "
    "of ‖x − y‖² ÷ (‖x‖² + ‖y‖²), and by which of near ones keeps its direction; confidence says how much worse the "
    "next best matching fits.",
)


def summary(run: Run, findings: list[tuple[str, str, str]]) -> Section:
    """The run in a dozen facts, and what the other sections found."""
    config, lineage = run.record.get("config", {}), run.lineage
    last, began = run.checkpoints[-1], len(run.beginning.stack)
    table = loss_metric.loss(run.scalars)
    evals = table[table[col.SPLIT] == "eval"]
    sizes = run.scalars.table(run_folder.PARAMETERS)[col.VALUE]
    facts = [
        ("Model", ", ".join(filter(None, (str(last.config.get("model_type")), last.anatomy.task, _width(last))))),
        ("Layers", f"{began} → {len(lineage.stack)}, {event_counts(lineage)}"),
        ("Stack now", str(lineage)),
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
    """Eval loss as it was estimated, with the standard error of the last estimate, and over all held-out text."""
    if not len(losses):
        return []
    error, whole, tokens = (
        run.scalars.of(tag).values
        for tag in (run_folder.EVAL_LOSS_SE, run_folder.EVAL_LOSS_FULL, run_folder.EVAL_TOKENS_FULL)
    )
    beside = f" (standard error {error[-1]:.3f})" if len(error) else ""
    facts = [("Eval loss", f"{losses.iloc[0]:.3f} → {losses.iloc[-1]:.3f} nats per token{beside}")]
    if len(whole) and len(tokens):
        facts.append(("Full eval loss", f"{whole[-1]:.3f} over all held-out text, {int(tokens[-1]):,} tokens"))
    return facts


def loss(run: Run) -> Section:
    """Loss against steps, tokens, FLOPs and seconds."""
    table = loss_metric.loss(run.scalars)
    damage = [f"Passed over: {line}." for line in run.scalars.damaged]
    if not len(table):
        return Section(
            "loss", "Loss", ["This run logged no scalars (in a run of ours: tracking.tensorboard was off).", *damage]
        )
    steps = lineage_metric.by_step(run.lineage)
    births = loss_metric.births(run.scalars, list(steps))
    drawing = loss_figure.figure(table, births, [together(labels) for labels in steps.values()])
    went = _loss_words(table)
    kinds = table[col.SPLIT].value_counts()
    whence = sample(*(f"{kinds[kind]:,} {kind} losses" for kind in ("train", "eval") if kind in kinds))
    figure = Figure("loss", "Loss over training", f"{went} {whence}", drawing, table)
    headline = went if (table[col.SPLIT] == "eval").sum() > 1 else ""
    return Section("loss", "Loss", damage, figures=[figure], headline=headline, method=LOSS_METHOD)


def lineage(run: Run) -> Section:
    """Who sits where, and who came from whom."""
    found = run.lineage
    events, message = lineage_metric.events(found), _lineage_words(found)
    figure = stack("lineage", "The stack over time", message, run)
    words = sentences(run.notes)
    tables = [("Growth events", events)] if len(events) else []
    if run.confidence is not None:
        unsure = run.confidence[(run.confidence[col.CONFIDENCE] < SURE) | run.confidence[col.MATCHED_INDEX].isna()]
        tables += [("Newborn layers, and matches that are not certain", unsure)] if len(unsure) else []
    method = LINEAGE_METHOD if run.confidence is None else [*LINEAGE_METHOD, INFERRED]
    return Section("lineage", "Lineage", words, figures=[figure], tables=tables, headline=message, method=method)


def stack(id: str, title: str, caption: str, run: Run) -> Figure:
    """The figure of a run's stack over time."""
    layers = lineage_metric.layers(run.lineage, run.confidence)
    locations = lineage_metric.locations(run.lineage, run.checkpoints[-1].step)
    return Figure(id, title, caption, lineage_figure.figure(layers, locations), layers)


def made(lineage: Lineage) -> str:
    """How many events made the stack."""
    return f"{event_counts(lineage)} made the stack {lineage}"


def event_counts(lineage: Lineage) -> str:
    """How many growth events there are, and how many removals, where there are any."""
    removed = lineage_metric.removals(lineage)
    grown = len(lineage.events) - removed
    counts = [count(grown, "growth event")] if grown or not removed else []
    return " and ".join(counts + ([count(removed, "removal")] if removed else []))


def of_lineage(run: Run) -> Report:
    """A report on lineage alone."""
    return Report(run.name, lead(run), [lineage(run)])


def provenance(run: Run) -> Section:
    """What it takes to run this again."""
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
        words.append("Checkpoints that no run of ours wrote: how they came to be is not known here.")
    return Section("provenance", "Provenance", words, facts=facts, tables=tables)


def origin(run: Run) -> list[tuple[str, str]]:
    """Where a run comes from: label and value, empty where it is not known."""
    record = run.record
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    return [
        ("Command", " ".join(map(str, record.get("command", [])))),
        ("Begun", str(record.get("created", ""))),
        ("Seed", str(record.get("seed", ""))),
        ("Corpus fingerprint", str(record.get("corpus", {}).get("fingerprint", ""))),
        ("Versions", versions),
    ]


def lead(run: Run) -> str:
    """The run in one sentence."""
    found, last = run.lineage, run.checkpoints[-1]
    if len(run.checkpoints) == 1 and not found.events:
        return f"A {last.config.get('model_type')} at one checkpoint, with nothing to compare it with."
    verb = "changed" if lineage_metric.removals(found) else "grew"
    grown = f"{verb} from {len(run.beginning.stack)} to {len(found.stack)} layers" if found.events else "did not grow"
    # Steps of checkpoints that do not tell theirs are their places in the order that they were given in.
    numbered = isinstance(run, ForeignRun) and bool(run.counted)
    length = count(len(run.checkpoints), "checkpoint") if numbered else count(last.step, "step")
    return f"A {last.config.get('model_type')} that {grown} over {length}."


def together(labels: list[str]) -> str:
    """Several events of one step in the margin of a figure: births in a row, the rest counted."""
    births = "".join(label for label in labels if label.startswith("+"))
    others = [label for label in labels if not label.startswith("+")]
    return " ".join(filter(None, [births, others[0] if len(others) == 1 else f"{len(others)} more" if others else ""]))


def _loss_words(table: pd.DataFrame) -> str:
    """From where to where eval loss went, and how steadily."""
    evals = table[table[col.SPLIT] == "eval"].sort_values(col.STEP)
    if len(evals) < 2:
        return "Loss of each training step."
    losses, steps = evals[col.LOSS], len(evals) - 1
    falls = (losses.diff().dropna() < -ROUNDING * losses.iloc[:-1].to_numpy()).sum()
    first, last = losses.iloc[0], losses.iloc[-1]
    if equal(first, last):
        return f"Eval loss was {first:.3f} at the first and at the last evaluation."
    start, end = distinct_digits(first, last, digits=3)
    how = "at every evaluation" if falls == steps else f"at {falls} of {steps} evaluations"
    return f"Eval loss went from {start} to {end}; it fell {how}."


def _lineage_words(found: Lineage) -> str:
    if not found.events:
        return f"No growth: the stack stayed {found}."
    founders = [id for id, layer in found.layers.items() if layer.birth.event is None]
    there = [id for id in found.stack if id in founders]
    if not there:
        return f"{made(found)}; {'no founder is left' if founders else 'it began with none'}."
    locations = ", ".join(f"{id} now sits at index {found.index(id)}" for id in there[:3])
    gone = [id for id in found.layers if id not in found.stack]
    removed = f"; removed: {', '.join(gone)}" if gone else ""
    return f"{made(found)}; of the founders, {locations}{removed}."


def _width(checkpoint: Checkpoint) -> str:
    width = checkpoint.config.get(checkpoint.anatomy.config.get("hidden", "hidden_size"))
    return "" if width is None else f"width {width}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
