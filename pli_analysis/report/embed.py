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
from pli_analysis.report.parts import Figure, Report, Section, distinct_digits, equal, sample, sentences
from pli_train.core.errors import counted

if TYPE_CHECKING:
    from pli_analysis.metrics.maps.embedding import Map
    from pli_analysis.metrics.maps.gram import SketchError
    from pli_analysis.metrics.maps.projections import Components
    from pli_analysis.runs.run import Run

FEWEST_POINTS = 5
"""Minimum number of points (a layer at a checkpoint) for a map."""
MOST_POINTS = 1500
"""Maximum number of points for which t-SNE is drawn by default; the run and its random walk then take 15 seconds."""
MAP_EXACT = 1e11
"""Maximum multiply-adds for exact distances; above this, weights are sketched to keep the report fast."""

METHOD = [
    (
        "distances",
        "Euclidean, between all points, computed in float64 from inner products of steps (the difference of each "
        "point from the one it came from: its predecessor or, at birth, its donor). Large runs use random sketches of "
        "the vectors (Charikar, Chen and Farach-Colton 2002), and the caption states the error.",
    ),
    ("PCA", "Computed from these distances (Torgerson 1952): the plane with the largest share of the variance."),
    (
        "t-SNE, UMAP",
        "van der Maaten and Hinton 2008; McInnes et al. 2018, arXiv:1802.03426. Both are initialized with PCA (Kobak "
        "and Linderman 2021) and have a fixed seed. With N points, t-SNE's perplexity is min(30, (N − 1) / 3) and UMAP "
        "uses min(15, N − 1) neighbors.",
    ),
    ("trustworthiness", "1 if all neighbors in the plane are neighbors in the original space (Venna and Kaski 2001)."),
    (
        "random walk",
        "The same number and lengths of steps in random directions, which are nearly orthogonal in many dimensions. "
        "PCA shows it as smooth curves too (Antognini and Sohl-Dickstein 2018, arXiv:1806.08805).",
    ),
]


def paths(run: Run, maps: Sequence[str] | None = None, say: Callable[[str], None] = lambda line: None) -> Section:
    """Build the section with the map: the paths of all layers through weight space, in one plane.

    Args:
        maps: methods to draw besides PCA. None draws t-SNE if there are few points. UMAP is compiled at its first use
            in a process.
        say: called with a line before a slow step.
    """
    points = embed_metric.points_of(run)
    title = "Map of the layers"
    if len(points) < FEWEST_POINTS:
        few = f"A map needs {FEWEST_POINTS} points, a layer at a checkpoint each; this run has {len(points)}."
        return Section("map", title, [few])
    quick = ("tsne",) if len(points) <= MOST_POINTS else ()
    drawn = quick if maps is None else maps
    section = _map(embed_metric.embed(run, exact=MAP_EXACT, further=drawn, say=say), title, "layers", "weights")
    if maps is None:
        section.words.append(_left_out(quick))
    return section


def _left_out(drawn: Sequence[str]) -> str:
    """Name the methods that are not drawn because they are slow, and the command that draws them."""
    further = projections.METHODS[1:]
    slow = ", ".join(NAMES[method] for method in further if method not in drawn)
    command = f"pli-analyze report RUN --html --maps {','.join(further)}"
    return f"Not drawn because it is slow: {slow}. To draw it: {command}"


def of_map(name: str, found: Map, of: str, space: str) -> Report:
    """Build a report with the map only.

    Args:
        name: name of the run.
        found: the map.
        of: what the points are: layers, heads or ffn.
        space: weights, updates or function.
    """
    points = (found.table[col.WALK] == "run").sum()
    what = {"layers": "layers", "heads": "heads", "ffn": "FFNs"}[of]
    lead = f"{points:,} points: {what} at checkpoints, by their {'outputs' if space == 'function' else space}."
    return Report(name, lead, [_map(found, f"Map of the {what}", what, space)])


def _map(found: Map, title: str, what: str, space: str) -> Section:
    """Build the section of a map, with a caption per method."""
    walk = found.walk
    shares = {"run": _two(found.components)} | ({} if walk is None else {"random": _two(walk)})
    drawing = embed_figure.figure(found.table, found.methods, shares, donors=not found.since_birth)
    births = "all births are at one point" if found.since_birth else "dotted lines connect donors with their clones"
    reading = (
        f"Each path follows one of the {what} from birth (ring) to its last checkpoint (name); {births}. All points "
        "are embedded together. "
    )
    if walk is not None:
        reading += (
            "The random walk has the same births, donors and step lengths, and a random direction for each step. Its "
            "paths are smooth curves too, so a smooth curve alone is no finding."
        )
    captions = {method: _caption(found, method, what, space) for method in found.methods}
    figure = Figure("map", title, captions[found.methods[0]], drawing, found.table, captions)
    headline = " ".join([] if space == "updates" else _travel(found.travel))
    return Section(
        "map", title, [reading.strip(), *sentences(found.notes)], figures=[figure], headline=headline, method=METHOD
    )


def _caption(found: Map, method: str, what: str, space: str) -> str:
    """Describe how far parts moved relative to a random walk, and how faithful the plane of a method is."""
    words = [] if space == "updates" else _travel(found.travel)
    if method == "pca":
        share = f"The plane explains {sum(_two(found.components)):.0%} of the variance"
        share += f" (random walk: {sum(_two(found.walk)):.0%})" if found.walk else ""
        words.append(f"{share}.")
    else:
        words.append(
            f"{NAMES[method]} preserves neighborhoods; distances between clusters and their sizes have no meaning."
        )
    if trust := found.trust[method]:
        words.append(f"Trustworthiness is {trust[0]:.2f} for {trust[1]} neighbors.")
    if found.error is not None:
        words.append(_sketch_words(found.error))
    points = found.table[found.table[col.WALK] == "run"]
    words.append(sample(counted(points[col.PART].nunique(), what.removesuffix("s")), counted(len(points), "point")))
    return " ".join(words)


def _sketch_words(error: SketchError) -> str:
    """Describe the error of sketched distances: measured on some pairs, and bounded for all."""
    measured = (
        f"Distances are estimated from sketches. On {error.pairs} pairs with known exact distances, the median error "
        f"is {error.median:.1%} and the largest {error.largest:.1%}"
    )
    if error.bound is None:
        return f"{measured}; no bound is known for other pairs, because points differ in few weights."
    return f"{measured}; with a probability of {1 - RISK:.0%} no distance has an error above {error.bound:.1%}."


def _travel(travel: dict[str, float]) -> list[str]:
    """Describe which parts moved farthest and least far, relative to a random walk."""
    if not travel:
        return []
    most, least = max(travel, key=lambda part: travel[part]), min(travel, key=lambda part: travel[part])
    far, near = distinct_digits(travel[most], travel[least])
    compared = "times as far from its birth as a random walk with the same steps"
    if most != least and equal(travel[most], travel[least]):
        return [f"Each part moved {far} {compared}."]
    farthest = f"{most} moved {far} {compared}"
    return [f"{farthest}; {least} moved least, {near} times as far." if most != least else f"{farthest}."]


def _two(components: Components) -> tuple[float, float]:
    return float(components.shares[0]), float(components.shares[1])
