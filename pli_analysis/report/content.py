"""The sections of a run's report, in order.

Each section is a function from a Run to a Section. A section whose data is missing says so in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pli_analysis.metrics import attention as attention_metric
from pli_analysis.metrics import lens as lens_metric
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.metrics.ablation import ablation as ablation_metric
from pli_analysis.metrics.ablation import pruning as pruning_metric
from pli_analysis.metrics.attribution import attribution as attribution_metric
from pli_analysis.metrics.attribution import conductance as conductance_metric
from pli_analysis.metrics.full_depth import full_depth
from pli_analysis.metrics.neurons import neurons as neurons_metric
from pli_analysis.metrics.probing import probe as probe_metric
from pli_analysis.report import (
    ablation,
    attention,
    attribution,
    conductance,
    hero,
    lens,
    neurons,
    plugins,
    probe,
    pruning,
)
from pli_analysis.report.disturbance import disturbance
from pli_analysis.report.drift import drift
from pli_analysis.report.embed import paths
from pli_analysis.report.grad_norms import grad_norms
from pli_analysis.report.key_figures import of_full_depth, of_loss
from pli_analysis.report.overview import lead, lineage, loss, provenance, standard_error, summary, verdict
from pli_analysis.report.parts import Report, Section, found_by
from pli_train.core.cli.console import timed
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.run import Run

SECTIONS: dict[str, Callable[[Run], Section]] = {
    "loss": loss,
    "lineage": lineage,
    "disturbance": disturbance,
    "drift": drift,
    "map": paths,
    "grad-norms": grad_norms,
    "provenance": provenance,
}
"""Id → function, of the sections after the summary, which repeats their findings."""


class Explanation(NamedTuple):
    """A section about what the model does at the end of a run, on its held-out blocks.

    Attributes:
        title: title of the section.
        measure: measures the last checkpoint.
        section: builds the section from the table.
    """

    title: str
    measure: Callable[[Run], pd.DataFrame]
    section: Callable[[pd.DataFrame], Section]

    def build(self, run: Run) -> Section:
        """Measure a run and build the section; if the run cannot be measured, the section says why."""
        try:
            return self.section(self.measure(run))
        except BadInput as error:
            return Section(self.measure.__name__, self.title, words=[f"Not measured: {error}"])


EXPLANATIONS = {
    "ablation": Explanation("Ablation", ablation_metric.ablation, ablation.section),
    "pruning": Explanation("Pruning of heads", pruning_metric.pruning, pruning.section),
    "lens": Explanation("Lenses", lens_metric.lens, lens.section),
    "probe": Explanation("Linear probes", probe_metric.probe, probe.section),
    "attribution": Explanation("Direct logit attribution", attribution_metric.attribution, attribution.section),
    "conductance": Explanation("Layer conductance", conductance_metric.conductance, conductance.section),
    "attention": Explanation("Attention", attention_metric.attention, attention.section),
    "neurons": Explanation("Neurons", neurons_metric.neurons, neurons.section),
}
"""Id → section. They take minutes to measure the first time. Most results are cached."""


def build(
    run: Run,
    map: Callable[[Run], Section] = paths,
    explain: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Build the report of a run. Metrics of other packages are sections before the provenance.

    Args:
        run: the run to read.
        map: builds the section of the map: `paths`, or `paths` with other methods.
        explain: whether to measure what is in `EXPLANATIONS`, and add its sections.
        on_progress: called with (sections done, total sections).

    Raises:
        BadInput: when the run cannot be read.
    """
    functions = SECTIONS | {"map": map}
    last = functions.popitem()
    if explain:
        functions |= {id: explanation.build for id, explanation in EXPLANATIONS.items()}
    functions |= plugins.sections() | dict([last])
    sections = sections_of(run, functions, on_progress)
    first = [*of_loss(loss_metric.loss(run.scalars), standard_error(run)), *of_full_depth({"": [full_depth(run)]})]
    further = [figure for section in sections for figure in section.key_figures]
    return Report(
        run.name,
        lead(run),
        [summary(run, found_by(sections)), *sections],
        verdict=verdict(run, first),
        key_figures=[*first, *further],
        hero=hero.of_run(run, sections[0].headline),
    )


def sections_of(
    run: Run,
    functions: Mapping[str, Callable[[Run], Section]],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Section]:
    """Build sections of a run, given id → function."""
    sections: list[Section] = []
    for id, section in functions.items():
        on_progress(len(sections), len(functions))
        with timed(f"section {id}"):
            sections.append(section(run))
    on_progress(len(sections), len(functions))
    return sections
