"""The sections of a run's report, in order.

Each section is a function from a Run to a Section. A section whose data is missing says so in one line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pli_analysis.metrics import attention as attention_metric
from pli_analysis.metrics import lens as lens_metric
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.metrics.ablation import ablation as ablation_metric
from pli_analysis.metrics.ablation import pruning as pruning_metric
from pli_analysis.metrics.attribution import attribution as attribution_metric
from pli_analysis.metrics.attribution import conductance as conductance_metric
from pli_analysis.metrics.full_depth import full_depth
from pli_analysis.metrics.probing import probe as probe_metric
from pli_analysis.report import ablation, attention, attribution, conductance, hero, lens, probe, pruning
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

SECTIONS: list[Callable[[Run], Section]] = [loss, lineage, disturbance, drift, paths, grad_norms, provenance]
"""The sections after the summary, which repeats their findings."""


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


EXPLANATIONS = [
    Explanation("Ablation", ablation_metric.ablation, ablation.section),
    Explanation("Pruning of heads", pruning_metric.pruning, pruning.section),
    Explanation("Lenses", lens_metric.lens, lens.section),
    Explanation("Linear probes", probe_metric.probe, probe.section),
    Explanation("Direct logit attribution", attribution_metric.attribution, attribution.section),
    Explanation("Layer conductance", conductance_metric.conductance, conductance.section),
    Explanation("Attention", attention_metric.attention, attention.section),
]
"""They take minutes to measure the first time. Most results are cached."""


def build(
    run: Run,
    map: Callable[[Run], Section] = paths,
    explain: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Build the report of a run.

    Args:
        run: the run to read.
        map: builds the section of the map: `paths`, or `paths` with other methods.
        explain: whether to measure what is in `EXPLANATIONS`, and add its sections before the provenance.
        on_progress: called with (sections done, total sections).

    Raises:
        BadInput: when the run cannot be read.
    """
    planned: list[tuple[str, Callable[[Run], Section]]] = [
        (each.__name__, map if each is paths else each) for each in SECTIONS
    ]
    if explain:
        planned[-1:-1] = [(each.title, each.build) for each in EXPLANATIONS]
    sections: list[Section] = []
    for name, section in planned:
        on_progress(len(sections), len(planned))
        with timed(f"section {name}"):
            sections.append(section(run))
    on_progress(len(sections), len(planned))
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
