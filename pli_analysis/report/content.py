"""The sections of a run's report, in order.

Each section is a function from a Run to a Section. A section whose data is missing says so in one line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pli_analysis.report.disturbance import disturbance
from pli_analysis.report.drift import drift
from pli_analysis.report.embed import paths
from pli_analysis.report.grad_norms import grad_norms
from pli_analysis.report.overview import lead, lineage, loss, provenance, summary
from pli_analysis.report.parts import Report, Section, found_by
from pli_train.core.cli.console import timed

if TYPE_CHECKING:
    from pli_analysis.runs.run import Run

SECTIONS: list[Callable[[Run], Section]] = [loss, lineage, disturbance, drift, paths, grad_norms, provenance]
"""The sections after the summary, which repeats their findings."""


def build(
    run: Run,
    map: Callable[[Run], Section] = paths,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Build the report of a run.

    Args:
        run: the run to read.
        map: builds the section of the map: `paths`, or `paths` with other methods.
        on_progress: called with (sections done, total sections).

    Raises:
        BadInput: when the run cannot be read.
    """
    sections: list[Section] = []
    for section in SECTIONS:
        on_progress(len(sections), len(SECTIONS))
        with timed(f"section {section.__name__}"):
            sections.append((map if section is paths else section)(run))
    on_progress(len(sections), len(SECTIONS))
    return Report(run.name, lead(run), [summary(run, found_by(sections)), *sections])
