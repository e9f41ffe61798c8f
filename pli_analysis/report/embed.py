"""What there is to tell of a map of parts: the section, the page, and the findings in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis.figures import embed as embed_figure
from pli_analysis.metrics import embed as embed_metric
from pli_analysis.report.parts import Figure, Report, Section, count

if TYPE_CHECKING:
    from pli_analysis.metrics.embed import Map
    from pli_analysis.metrics.projections import Components
    from pli_analysis.run import Run

FEWEST_POINTS = 5
"""Layers at checkpoints below which there is no map."""
MAP_EXACT = 1e11
"""Multiply-adds that the map may take; beyond, weights are sketched, so that the page comes soon."""


def paths(run: Run) -> Section:
    """The paths of all layers through the space of their weights, in one plane."""
    found = embed_metric.points_of(run)
    title = "Map of the layers"
    if len(found) < FEWEST_POINTS:
        told = f"{count(len(found), 'point')}, a layer at a checkpoint each, are too few for a map."
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
        largest, median = found.error
        words += f"Distances are sketched: off by {median:.1%} in the median, by some {largest:.1%} at most. "
    return words.strip()


def _two(components: Components) -> tuple[float, float]:
    return float(components.shares[0]), float(components.shares[1])
