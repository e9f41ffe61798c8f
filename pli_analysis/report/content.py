"""What a report of a run says, told once for page and terminal: which sections, in which order.

A section is one function from a Run to a Section; one whose data is missing says so in a line and shows nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pli_analysis.report.disturbance import disturbance
from pli_analysis.report.drift import drift
from pli_analysis.report.embed import paths
from pli_analysis.report.gradnorms import gradnorms
from pli_analysis.report.overview import lead, lineage, loss, provenance, summary
from pli_analysis.report.parts import Report, Section, found_by

if TYPE_CHECKING:
    from pli_analysis.run import Run

SECTIONS: list[Callable[[Run], Section]] = [loss, lineage, disturbance, drift, paths, gradnorms, provenance]
"""Below the summary, which says what they found."""


def tell(run: Run, map: Callable[[Run], Section] = paths) -> Report:
    """Read a run and say what it did. Raises BadInput when it cannot be read.

    Args:
        map: tells the map: `paths`, or that with other methods.
    """
    sections = [(map if section is paths else section)(run) for section in SECTIONS]
    return Report(run.name, lead(run), [summary(run, found_by(sections)), *sections])
