"""The sections of a run's report, in order.

A section is one function from a Run to a Section; one whose data is missing says so in a line and shows nothing else.
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
"""Below the summary, which says what they found."""


def build(
    run: Run,
    map: Callable[[Run], Section] = paths,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read a run and say what it did.

    Args:
        run: to tell of.
        map: tells the map: `paths`, or that with other methods.
        on_progress: told (sections done, sections in all).

    Raises:
        BadInput: when it cannot be read.
    """
    sections: list[Section] = []
    for section in SECTIONS:
        on_progress(len(sections), len(SECTIONS))
        with timed(f"section {section.__name__}"):
            sections.append((map if section is paths else section)(run))
    on_progress(len(sections), len(SECTIONS))
    return Report(run.name, lead(run), [summary(run, found_by(sections)), *sections])
