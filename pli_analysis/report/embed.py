"""Report section: map of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import embed as embed_figure
from pli_analysis.figures.embed import NAMES
from pli_analysis.metrics.maps import embedding as embed_metric
from pli_analysis.metrics.maps import projections
from pli_analysis.metrics.maps.gram import RISK
from pli_analysis.report.parts import Figure, Report, Section, count, distinct_digits, equal, sample, sentences

if TYPE_CHECKING:
    from pli_analysis.metrics.maps.embedding import Map
    from pli_analysis.metrics.maps.gram import SketchError
    from pli_analysis.metrics.maps.projections import Components
    from pli_analysis.runs.run import Run

FEWEST_POINTS = 5
"""Layers at checkpoints below which there is no map."""
MOST_POINTS = 1500
"""Layers at checkpoints up to which t-SNE is drawn unasked: the run's map and the random walk's take 15 seconds."""
MAP_EXACT = 1e11
"""Multiply-adds that the map may take; beyond, weights are sketched, so that the page comes soon."""

METHOD = [
    (
        "distances",
        "Between all points, from inner products of their steps (each kept as its difference from the point it came "
        "from) in float64; too many long vectors are sketched (Charikar, Chen and Farach-Colton 2002), and their error "
        "is stated.",
    ),
    ("PCA", "From these distances (Torgerson 1952). It keeps distances as far as a plane can."),
    (
        "t-SNE, UMAP",
        "van der Maaten and Hinton 2008; McInnes et al. 2018, arXiv:1802.03426. Both begin with PCA (Kobak and "
        "Linderman 2021) and have a fixed seed; perplexity is min(30, (N − 1) / 3), UMAP's neighbors min(15, N − 1).",
    ),
    ("trustworthiness", "1 when all neighbors in the plane are neighbors (Venna and Kaski 2001)."),
    (
        "random walk",
        "A walk with as many and as long steps in random directions, which are at right angles in many dimensions: it "
        "draws smooth curves too (Antognini and Sohl-Dickstein 2018, arXiv:1806.08805).",
    ),
]


def paths(run: Run, maps: Sequence[str] | None = None, say: Callable[[str], None] = lambda line: None) -> Section:
    """The paths of all layers through the space of their weights, in one plane.

    Args:
        maps: methods beside PCA. None for what takes but seconds: t-SNE of not too many points. The first use of UMAP
            in a process compiles it.
        say: told what takes long.
    """
    found = embed_metric.points_of(run)
    title = "Map of the layers"
    if len(found) < FEWEST_POINTS:
        message = f"{count(len(found), 'point')}, a layer at a checkpoint each, are too few for a map."
        return Section("map", title, [message])
    quick = ("tsne",) if len(found) <= MOST_POINTS else ()
    drawn = quick if maps is None else maps
    section = _map(embed_metric.embed(run, exact=MAP_EXACT, further=drawn, say=say), title, "layers", "weights")
    if maps is None:
        section.words.append(_left_out(quick))
    return section


def _left_out(drawn: Sequence[str]) -> str:
    """Methods that the map goes without as they take long, and how to have them."""
    further = projections.METHODS[1:]
    slow = ", ".join(NAMES[method] for method in further if method not in drawn)
    command = f"pli-analyze report RUN --html --maps {','.join(further)}"
    return f"Left out, as it takes long: {slow}. To have it drawn: {command}"


def of_map(name: str, found: Map, of: str, space: str) -> Report:
    """A report on a map alone.

    Args:
        name: of the run.
        found: the map.
        of: what its points are: layers, heads or ffn.
        space: weights, updates or function.
    """
    points = (found.table[col.WALK] == "run").sum()
    what = {"layers": "layers", "heads": "heads", "ffn": "FFNs"}[of]
    lead = f"{points:,} points: {what} at checkpoints, by their {'outputs' if space == 'function' else space}."
    return Report(name, lead, [_map(found, f"Map of the {what}", what, space)])


def _map(found: Map, title: str, what: str, space: str) -> Section:
    """A map with its captions."""
    walk = found.walk
    shares = {"run": _two(found.components)} | ({} if walk is None else {"random": _two(walk)})
    drawing = embed_figure.figure(found.table, found.methods, shares, donors=not found.since_birth)
    begins = "all births lie in one point" if found.since_birth else "dotted lines lead from donors to their clones"
    message = (
        f"Each path is one of the {what} from birth (ring) to its last checkpoint (name); {begins}. All points are "
        "fitted together. "
    )
    if walk is not None:
        message += (
            "The random walk has the same births, donors and lengths of steps, each step in a direction of its own. It "
            "draws smooth curves as well: a curve as such is no finding."
        )
    captions = {method: _caption(found, method, what, space) for method in found.methods}
    figure = Figure("map", title, captions[found.methods[0]], drawing, found.table, captions)
    headline = " ".join([] if space == "updates" else _travel(found.travel))
    return Section(
        "map", title, [message.strip(), *sentences(found.notes)], figures=[figure], headline=headline, method=METHOD
    )


def _caption(found: Map, method: str, what: str, space: str) -> str:
    """How far the parts went beside a random walk, and what a method's plane shows of it."""
    words = [] if space == "updates" else _travel(found.travel)
    if method == "pca":
        share = f"The plane holds {sum(_two(found.components)):.0%} of the variance"
        share += f" (a random walk's plane {sum(_two(found.walk)):.0%} of its own)" if found.walk else ""
        words.append(f"{share}.")
    else:
        words.append(
            f"{NAMES[method]} keeps neighbors: neither distances between groups nor their sizes mean anything."
        )
    if trust := found.trust[method]:
        words.append(f"Trustworthiness is {trust[0]:.2f} over {trust[1]} neighbors.")
    if found.error is not None:
        words.append(_sketch_words(found.error))
    points = found.table[found.table[col.WALK] == "run"]
    words.append(sample(count(points[col.PART].nunique(), what.removesuffix("s")), count(len(points), "point")))
    return " ".join(words)


def _sketch_words(error: SketchError) -> str:
    """How far sketched distances are off: as measured on some, and a bound for all."""
    measured = (
        f"Distances are sketched. Of {error.pairs} pairs compared with exact distances half are off by less than "
        f"{error.median:.1%} and the worst by {error.largest:.1%}"
    )
    if error.bound is None:
        return f"{measured}; for the others no bound is known, as points differ in few numbers each."
    return f"{measured}; with a probability of {1 - RISK:.0%} no distance of all is off by more than {error.bound:.1%}."


def _travel(travel: dict[str, float]) -> list[str]:
    """Who got farthest and who least far, beside a random walk."""
    if not travel:
        return []
    most, least = max(travel, key=lambda part: travel[part]), min(travel, key=lambda part: travel[part])
    far, near = distinct_digits(travel[most], travel[least])
    compared = "times as far from its birth as a random walk of the same steps would"
    if most != least and equal(travel[most], travel[least]):
        return [f"Each part got {far} {compared}."]
    went = f"{most} got {far} {compared}"
    return [f"{went}; {least}, at the other end, {near} times." if most != least else f"{went}."]


def _two(components: Components) -> tuple[float, float]:
    return float(components.shares[0]), float(components.shares[1])
