"""Names of the figures of a report, and the choice of some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pli_train.core.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from pli_analysis.report.parts import Section


class Shown(NamedTuple):
    """A figure as it is written to a file.

    Attributes:
        drawing: the figure.
        view: key of the view to draw; None for the first, or the only one.
    """

    drawing: go.Figure
    view: str | None


def named(sections: Iterable[Section]) -> dict[str, Shown]:
    """Return name → figure of all figures of sections, and of all their views.

    A name begins with the id of the section: `loss`, `drift-map`, `lens-losses`. The first view of a figure has the
    name of the figure; the name of another one ends with its key: `loss-flops`.
    """
    return {
        f"{name}-{view}" if view else name: Shown(drawing, view)
        for section in sections
        for name, drawing in _figures(section)
        for view in (None, *list((drawing.layout.meta or {}).get("views", {}))[1:])
    }


def _figures(section: Section) -> Iterator[tuple[str, go.Figure]]:
    for figure in section.figures:
        own = figure.id == section.id or figure.id.startswith(f"{section.id}-")
        yield figure.id if own else f"{section.id}-{figure.id}", figure.drawing


def parse(only: str) -> list[str]:
    """Return the names of `--only`. Raises BadInput if there is none."""
    names = [name for word in only.split(",") if (name := word.strip())]
    if not names:
        raise BadInput("--only: names no figure; give names such as loss,drift-map")
    return names


def needed(names: Sequence[str], sections: Iterable[str]) -> list[str]:
    """Return the ids of the sections that the named figures belong to, in the order of the sections.

    Raises:
        BadInput: if a name does not begin with the id of a section.
    """
    known = list(sections)
    for name in names:
        if not any(_is_under(name, id) for id in known):
            raise BadInput(f"--only {name}: is none of {', '.join(known)}{did_you_mean(name, known)}")
    return [id for id in known if any(_is_under(name, id) for name in names)]


def choose(names: Sequence[str] | None, sections: Sequence[Section]) -> dict[str, Shown]:
    """Return name → figure of the named figures, or of all figures.

    Args:
        names: a name of a figure or view, or of a section for all its figures; None for all figures. Only their first
            views are meant, unless a view is named.
        sections: at least those that the names belong to.

    Raises:
        BadInput: if there is no figure, or none of a name; the line says why, or has the names that there are.
    """
    figures = named(sections)
    chosen: dict[str, Shown] = {}
    for name in names or [section.id for section in sections]:
        found = (
            [name] if name in figures else [key for key in figures if _is_under(key, name) and not figures[key].view]
        )
        if names and not found:
            raise BadInput(f"--only {name}: {_missing(name, figures, sections)}")
        chosen |= {key: figures[key] for key in found}
    if not chosen:
        raise BadInput("figures: the report has no figure")
    return chosen


def _missing(name: str, figures: Mapping[str, Shown], sections: Iterable[Section]) -> str:
    """Say why there is no figure of a name: its section has none, or others."""
    if reasons := [section.words for section in sections if section.id == name]:
        return " ".join(["there is no figure.", *reasons[0]])
    return f"is none of {', '.join(figures)}{did_you_mean(name, list(figures))}"


def _is_under(name: str, section: str) -> bool:
    return name == section or name.startswith(f"{section}-")
