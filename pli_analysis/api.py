"""Python API: open a run, measure it and plot the tables; compare runs; read a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pli_analysis.report import drawn_table
from pli_analysis.report.drawn_table import Table as Table
from pli_analysis.report.plugins import Metric as Metric
from pli_analysis.runs.opening import open_run as open_run
from pli_analysis.runs.run import Run
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.metrics.disturbance.disturbance import Disturbance
    from pli_analysis.metrics.sweep.results import Results


def ablation(run: AnyRun, text: Path | None = None, blocks: int = 64, at: int | None = None) -> Table:
    """Measure how the loss changes without each head, FFN and layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.ablation.ablation`.
    """
    from pli_analysis.metrics.ablation import ablation as metric

    return drawn_table.drawn(metric.ablation(_opened(run), text, blocks, at), drawn_table.by_section("ablation"))


def attention(run: AnyRun, text: Path | None = None, blocks: int = 64, at: int | None = None) -> Table:
    """Measure where each head attends.

    Arguments, columns and errors are those of `pli_analysis.metrics.attention.attention`.
    """
    from pli_analysis.metrics import attention as metric

    return drawn_table.drawn(metric.attention(_opened(run), text, blocks, at), drawn_table.by_section("attention"))


def attribution(run: AnyRun, text: Path | None = None, blocks: int = 64, at: int | None = None) -> Table:
    """Measure how much each layer, head and FFN adds to the logits of the right tokens.

    Arguments, columns and errors are those of `pli_analysis.metrics.attribution.attribution`.
    """
    from pli_analysis.metrics.attribution import attribution as metric

    return drawn_table.drawn(metric.attribution(_opened(run), text, blocks, at), drawn_table.by_section("attribution"))


def compare(
    runs: Sequence[str | Path],
    *,
    tag: str | None = None,
    by: str = "step",
    at: float | None = None,
    levels: Sequence[float] | Literal["final"] | None = None,
    reference: str | None = None,
    smooth: int = 1,
) -> Table:
    """Compare the losses of groups of runs; one row for each group, lowest loss first.

    Args:
        runs: paths of runs or logs; `GROUP=PATH` makes a run one seed of a group.
        tag: name or pattern of the scalar, of which there must be one; None for the loss that all runs logged.
        by: axis of the comparison: `step`, `tokens`, `flops` or `seconds`.
        at: point on the axis; None for the last one that all runs reached.
        levels: losses at which speed-ups are computed, or `final`.
        reference: group that the others are compared with; None for the first.
        smooth: number of points that losses are averaged over; odd.

    Raises:
        BadInput: if a path has no scalars, or the runs cannot be compared.
    """
    from pli_analysis.metrics.comparison import compare as metric
    from pli_analysis.metrics.comparison import curves, tables

    by_scalar = metric.by_scalar(curves.read([str(path) for path in runs], tag, smooth))
    if len(by_scalar) > 1:
        raise BadInput(f"tag {tag}: matches {len(by_scalar)} scalars; give the name of one")
    found = metric.compared(by_scalar[0], by, at, levels, reference)
    return drawn_table.drawn(tables.summary(found), partial(drawn_table.comparison, found))


def conductance(run: AnyRun, text: Path | None = None, blocks: int = 64, at: int | None = None) -> Table:
    """Measure how much of the effect of the text on the predictions goes through the update of each layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.attribution.conductance.conductance`.
    """
    from pli_analysis.metrics.attribution import conductance as metric

    return drawn_table.drawn(metric.conductance(_opened(run), text, blocks, at), drawn_table.by_section("conductance"))


def drift(run: AnyRun, of: str = "layer", *, gauge: bool = False, spectral: bool = False, threads: int = 1) -> Table:
    """Measure the distance of each part from its birth weights.

    Arguments, columns and errors are those of `pli_analysis.metrics.drift.drift.drift`.
    """
    from pli_analysis.metrics.drift import drift as metric

    table = metric.drift(_opened(run), of, gauge=gauge, spectral=spectral, threads=threads)
    return drawn_table.drawn(table, drawn_table.drift)


def disturbance(run: AnyRun, window: int | None = None, twins: Sequence[AnyRun] | None = None) -> Disturbance:
    """Measure the effect of each growth event: see `pli_analysis.metrics.disturbance.disturbance`.

    Args:
        run: a run that grew.
        window: steps to use on each side of an event; None for a default from the intervals between events.
        twins: forks of the run that did not grow; None for those in the same folder.

    Raises:
        BadInput: if a checkpoint cannot be read.
    """
    from pli_analysis.metrics.disturbance import disturbance as metric
    from pli_analysis.metrics.disturbance import event_context

    opened = _opened(run)
    beside = event_context.twins_beside(opened) if twins is None else [_opened(twin) for twin in twins]
    return metric.disturbance(opened, beside, window)


def embed(
    run: AnyRun,
    method: str = "pca",
    of: str = "layer",
    space: str = "weights",
    *,
    text: Path | None = None,
    blocks: int = 16,
    since_birth: bool = False,
) -> Table:
    """Map every part at every checkpoint into one plane; columns are those of `pli_analysis.metrics.maps.embedding`.

    Args:
        run: the run.
        method: `pca`, `tsne` or `umap`.
        of: `layer`, `head` or `ffn`.
        space: map `weights`, `updates`, or outputs on tokens (`function`).
        text: text for `function`.
        blocks: number of its blocks.
        since_birth: whether to put every birth at the origin.

    Raises:
        BadInput: if an argument is none of these, or there is too little to map.
    """
    from pli_analysis.metrics.maps import embedding as metric

    parts = {"layer": "layers", "head": "heads", "ffn": "ffn"}.get(of, of)
    found = metric.embed(_opened(run), method, parts, space, text, blocks, since_birth)
    return drawn_table.drawn(found.table, partial(drawn_table.embed, found, parts, space))


def explain(
    runs: Sequence[AnyRun], scratch: Sequence[AnyRun] = (), text: Path | None = None, blocks: int = 64
) -> Table:
    """Test over runs whether inserted layers differ from layers of the same age or depth.

    Arguments and errors are those of `pli_analysis.metrics.explain.explain.contrasts`, columns those of `summary`.
    """
    from pli_analysis.metrics.explain import explain as metric

    table = metric.contrasts([*map(_opened, runs)], [*map(_opened, scratch)], text, blocks)
    return drawn_table.drawn(metric.summary(table))


def grad_norms(
    run: AnyRun, of: str = "all", *, recompute: bool = False, text: Path | None = None, blocks: int = 16
) -> Table:
    """Return the gradient norms of parts that training logged, or compute them at each checkpoint.

    Args:
        run: the run.
        of: parts: `layer`, `head`, `ffn`, `norms`, `attention`, `embeddings`, `other`, `total` or `all`.
        recompute: whether to compute them at each checkpoint, on the same tokens.
        text: text to compute them on.
        blocks: number of its blocks.

    Raises:
        BadInput: if none were logged, `of` is none of these, or a checkpoint cannot be read.
    """
    from pli_analysis.metrics import lineage as lineage_metric
    from pli_analysis.metrics.grad_norms import logged as metric

    opened = _opened(run)
    if recompute:
        from pli_analysis.metrics.grad_norms.recomputed import recomputed

        table = recomputed(opened, text, blocks)
    else:
        table = metric.require(metric.logged(opened.scalars, opened.lineage), opened.path)
    events = {step: " ".join(labels) for step, labels in lineage_metric.by_step(opened.lineage).items()}
    return drawn_table.drawn(metric.of_level(table, of), partial(drawn_table.grad_norms, events))


def influence(run: AnyRun, text: Path | None = None, blocks: int = 64, checkpoints: int = 8) -> Table:
    """Measure how much each sampled training block helped the held-out loss, by layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.influence`.
    """
    from pli_analysis.metrics import influence as metric

    table = metric.influence(_opened(run), text, blocks, checkpoints)
    return drawn_table.drawn(table, drawn_table.by_section("influence"))


def lens(run: AnyRun, text: Path | None = None, blocks: int = 64, at: int | None = None) -> Table:
    """Measure what the model would predict from the output of each layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.lens`.
    """
    from pli_analysis.metrics import lens as metric

    return drawn_table.drawn(metric.lens(_opened(run), text, blocks, at), drawn_table.by_section("lens"))


def lineage(run: AnyRun, *, events: bool = False) -> Table:
    """Return birth, donor and current index of each layer; columns are those of `pli_analysis.metrics.lineage`.

    Args:
        run: the run.
        events: one row for each growth event instead, which have no figure.
    """
    from pli_analysis.metrics import lineage as metric

    opened = _opened(run)
    if events:
        return drawn_table.drawn(metric.events(opened.lineage))
    locations = metric.locations(opened.lineage, opened.checkpoints[-1].step)
    return drawn_table.drawn(metric.layers(opened.lineage, opened.confidence), partial(drawn_table.stack, locations))


def measure(run: AnyRun, name: str) -> Table:
    """Measure a run with a metric of another installed package: see `pli_analysis.Metric`.

    Args:
        run: the run.
        name: name of the metric.

    Raises:
        BadInput: if no installed package has this metric, or the run cannot be measured.
        PliError: if the metric cannot be imported, fails, or returns no table.
    """
    from pli_analysis.report import plugins

    measured = plugins.measure(plugins.named(name), _opened(run))
    return drawn_table.drawn(measured.table, partial(drawn_table.first_figure, measured.section))


def neurons(
    run: AnyRun,
    text: Path | None = None,
    blocks: int = 64,
    at: int | None = None,
    layers: Sequence[str] | None = None,
    top: int = 5,
) -> Table:
    """Find the tokens at which FFN units are most active, and compare copied units with those they were copied from.

    Arguments, columns and errors are those of `pli_analysis.metrics.neurons.neurons.neurons`.
    """
    from pli_analysis.metrics.neurons import neurons as metric

    table = metric.neurons(_opened(run), text, blocks, at, layers=layers, top=top)
    return drawn_table.drawn(table, drawn_table.by_section("neurons"))


def probe(run: AnyRun, text: Path | None = None, blocks: int = 64, at: int | None = None) -> Table:
    """Measure which properties of a token a linear probe reads from the output of each layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.probing.probe.probe`.
    """
    from pli_analysis.metrics.probing import probe as metric

    return drawn_table.drawn(metric.probe(_opened(run), text, blocks, at), drawn_table.by_section("probe"))


def pruning(
    run: AnyRun, text: Path | None = None, blocks: int = 64, at: int | None = None, checkpoints: int = 1
) -> Table:
    """Measure the loss over the number of masked heads.

    Arguments, columns and errors are those of `pli_analysis.metrics.ablation.pruning`.
    """
    from pli_analysis.metrics.ablation import pruning as metric

    table = metric.pruning(_opened(run), text, blocks, at, checkpoints=checkpoints)
    return drawn_table.drawn(table, drawn_table.by_section("pruning"))


def scalars(run: AnyRun, tags: Sequence[str] = ()) -> Table:
    """Return the logged scalars: `run`, `tag`, `step`, `wall_time` and `value`, which have no figure.

    Args:
        run: the run.
        tags: names, or patterns such as `eval/*`; all by default.

    Raises:
        BadInput: if a pattern matches nothing.
    """
    opened = _opened(run)
    chosen = opened.scalars.only(tags) if tags else opened.scalars
    return drawn_table.drawn(chosen.tidy(opened.name))


def similarity(
    run: AnyRun,
    other: AnyRun | None = None,
    *,
    over_time: bool = False,
    at: int | None = None,
    text: Path | None = None,
    blocks: int = 64,
) -> Table:
    """Measure the similarity of layers by their outputs on tokens.

    Arguments, columns and errors are those of `pli_analysis.metrics.similarity.similarity.similarity`.
    """
    from pli_analysis.metrics.similarity import similarity as metric

    second = None if other is None else _opened(other)
    table = metric.similarity(_opened(run), second, text, blocks, at, over_time)
    return drawn_table.drawn(table, partial(drawn_table.similarity, over_time))


def sweep(study: str | Path) -> Results:
    """Read a study of `pli-train sweep` and compute its results: see `pli_analysis.metrics.sweep.results.Results`.

    Args:
        study: study folder. The study may still be running, and its run folders may be gone.

    Raises:
        BadInput: if the folder is not a study, its files are damaged, or it has no trials yet.
    """
    from pli_analysis.metrics.sweep.results import results

    return results(Path(study))


@dataclass(frozen=True)
class AnalyzedRun:
    """A run with all measurements as methods, named as the commands of `pli-analyze`; made by `open`.

    Attributes:
        run: the run as `open_run` gives it, with its checkpoints, lineage and scalars.
    """

    run: Run

    ablation = ablation
    attention = attention
    attribution = attribution
    conductance = conductance
    drift = drift
    embed = embed
    grad_norms = grad_norms
    influence = influence
    lens = lens
    lineage = lineage
    measure = measure
    neurons = neurons
    probe = probe
    pruning = pruning
    scalars = scalars
    similarity = similarity

    def disturbance(
        self, *, layers: bool = False, window: int | None = None, twins: Sequence[AnyRun] | None = None
    ) -> Table:
        """Measure the effect of each growth event; one row for each event.

        Args:
            layers: one row for each event and layer instead.
            window: as for the function `disturbance`, which returns both tables and the curves.
            twins: as for that function.
        """
        found = disturbance(self, window, twins)
        return drawn_table.drawn(found.layers if layers else found.events, partial(drawn_table.disturbance, found))


AnyRun = Run | AnalyzedRun
"""What functions accept as a run."""


def open(
    path: str | Path | Sequence[str | Path], *, stack: str | None = None, lineage: Path | None = None
) -> AnalyzedRun:
    """Open a run of pli-train, Trainer output, a model folder or several checkpoints of one model, to measure it.

    Examples:
        >>> import pli_analysis as pli
        >>> pli.open("/nowhere")
        Traceback (most recent call last):
            ...
        pli_train.core.errors.BadInput: /nowhere: no such folder; `pli-train run` makes runs, under runs/ by default

    Args:
        path: a run folder, the output folder of Hugging Face's Trainer, or one or several model folders.
        stack: for foreign checkpoints, the path of the list of layers to read if there are several.
        lineage: for foreign checkpoints, a `lineage.json` to use.

    Raises:
        BadInput: if the path holds nothing of the kind.
    """
    return AnalyzedRun(open_run(path, lineage=lineage, stack=stack))


def _opened(run: AnyRun) -> Run:
    return run.run if isinstance(run, AnalyzedRun) else run
