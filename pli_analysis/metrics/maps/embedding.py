"""Map of a run: each part at each checkpoint as a point in one plane.

Columns of the table, one row for each point:
    part        layer id (`c`), head id (`c.h3`) or FFN (`c.ffn`)
    layer       id of the layer it belongs to
    checkpoint  name of the checkpoint folder
    step        optimizer updates done
    age         steps since the part's birth
    index       index of the layer at this checkpoint, 0 at the bottom
    is_birth    whether it is the first point of its part
    donor       the part that it was copied from at birth
    walk        `run`, or `random` for points of the random walk
    x, y        coordinates: under PCA in units of the space; under t-SNE and UMAP without unit
    x_tsne, …   coordinates of further methods, if any: `x_` and `y_` with the method's name

Spaces: `weights` (at a checkpoint), `updates` (change of weights since the previous checkpoint), `function` (on a text:
outputs of layers, outputs of heads before the projection, or outputs of FFNs). The random walk has the births, donors
and step lengths of the run, but each step has a random direction. It gives smooth curves too: only differences from it
are evidence of structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.maps import plane_cache, projections
from pli_analysis.metrics.maps.gram import EXACT, SketchError, gram, random_walk, squared_distances
from pli_analysis.metrics.maps.points import Point, points_of
from pli_analysis.metrics.maps.projections import Components
from pli_analysis.metrics.maps.vectors import Outputs, Vectors, Weights
from pli_train.core.errors import BadInput, did_you_mean, some

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.inference.eval_tokens import Text
    from pli_analysis.runs.run import Run

SPACES = ("weights", "updates", "function")
COLUMNS = [col.PART, col.LAYER, col.CHECKPOINT, col.STEP, col.AGE, col.INDEX, col.IS_BIRTH, col.DONOR, col.WALK]
"""Columns of a point without its coordinates."""
TOKENS = 256
"""Maximum number of tokens of the text on which outputs are compared."""


@dataclass(frozen=True)
class Map:
    """A map with measures of its reliability.

    Attributes:
        table: see this module's docstring.
        methods: the methods used; x and y are of the first.
        components: principal components of the run's points; t-SNE and UMAP are initialized with the first two.
        walk: principal components of the random walk; None for updates.
        travel: part → distance from its first to its last point ÷ that of the random walk; no parts with one point.
        since_birth: whether the first point of each part is the origin.
        error: error of distances if they were sketched; None if they are exact.
        trust: method → trustworthiness and the number of neighbors used; None with too few points.
        notes: lines to print for the user.
    """

    table: pd.DataFrame
    methods: tuple[str, ...]
    components: Components
    walk: Components | None
    travel: dict[str, float]
    since_birth: bool
    error: SketchError | None
    trust: dict[str, tuple[float, int] | None]
    notes: list[str]


def embed(
    run: Run,
    method: str = "pca",
    of: str = "layers",
    space: str = "weights",
    text: Path | Text | None = None,
    blocks: int = 16,
    since_birth: bool = False,
    exact: float = EXACT,
    say: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    further: Iterable[str] = (),
) -> Map:
    """Compute one joint map of all parts of a run.

    Args:
        method: `pca`, `tsne` or `umap`.
        of: `layers`, `heads` or `ffn`.
        space: `weights`, `updates` or `function`.
        text, blocks: for `function`: as for `pli_analysis.inference.eval_tokens.batch_of`.
        since_birth: put the first point of each part at the origin, so that the map shows only its movement.
        exact: see `gram`.
        say: called with a line before a slow operation.
        on_progress: called with (columns read, columns in total).
        further: further methods that project the same distances, if there are enough points.

    Raises:
        BadInput: if an argument is not valid, a text is given for another space, there are fewer than two points, or a
            checkpoint cannot be read.
    """
    _check(space, text, since_birth)
    points = points_of(run, of)
    sources = [point.source for point in points]
    moved = [number for number, point in enumerate(points) if not point.first]
    count = len(moved) if space == "updates" else len(points)
    methods = tuple(dict.fromkeys(projections.method_for(each, count) for each in (method, *further)))
    notes = [f"{method} needs more points: this is PCA"] if methods[0] != method else []
    found = gram(_vectors(run, points, of, space, text, blocks), sources, exact, on_progress)
    drawable = _drawable(points, found.finite, space, since_birth)
    notes += _left_out(points, found.finite)
    if since_birth:
        sources = [None if point.first else point.source for point in points]
        fixed = [number for number, point in enumerate(points) if point.first]
        found.steps[fixed], found.steps[:, fixed] = 0.0, 0.0
    walk = random_walk(found.steps)
    squared, walked = squared_distances(found.steps, sources), squared_distances(walk, sources)
    travel = _travel(points, squared, walked, drawable)
    if space == "updates":
        squared = squared_distances(found.steps, [None] * len(points))
    kept = [number for number in (moved if space == "updates" else range(len(points))) if drawable[number]]
    if len(kept) < 2 <= count:
        raise BadInput(f"{run.path}: a map needs at least two finite points ({'; '.join(notes)})")
    methods = tuple(dict.fromkeys(projections.method_for(each, len(kept)) for each in methods))
    points = [points[number] for number in kept]
    squared, walked = squared[np.ix_(kept, kept)], walked[np.ix_(kept, kept)]
    drawn, components = _draw(points, methods, squared, "run", say)
    trust = {each: projections.trustworthiness(squared, drawn[_axes(each, methods)].to_numpy()) for each in methods}
    tables, walk_components = [drawn], None
    if space != "updates":
        table, walk_components = _draw(points, methods, walked, "random", say)
        tables.append(table)
    import pandas as pd

    table = pd.concat(tables, ignore_index=True)
    return Map(table, methods, components, walk_components, travel, since_birth, found.error, trust, notes)


def _drawable(points: Sequence[Point], finite: np.ndarray, space: str, since_birth: bool) -> list[bool]:
    """Return which points are drawn: those that are finite, and whose reference point is finite too."""

    def known(point: Point) -> bool:
        return point.source is None or bool(finite[point.source])

    if space == "updates":
        return [bool(finite[number]) and known(point) for number, point in enumerate(points)]
    born = {point.part: bool(finite[number]) for number, point in enumerate(points) if point.first}
    return [bool(finite[number]) and (not since_birth or born[point.part]) for number, point in enumerate(points)]


def _left_out(points: Sequence[Point], finite: np.ndarray) -> list[str]:
    """Return a line for each checkpoint with points that are not finite."""
    found: dict[str, list[str]] = {}
    for number in np.flatnonzero(~finite).tolist():
        found.setdefault(str(points[number].checkpoint.name), []).append(points[number].part)
    return [
        f"points that are not finite are left out: {some(parts)} at {checkpoint}" for checkpoint, parts in found.items()
    ]


def _check(space: str, text: Path | Text | None, since_birth: bool) -> None:
    if space not in SPACES:
        raise BadInput(f"--space {space}: is not a space{did_you_mean(space, SPACES)}; use one of {', '.join(SPACES)}")
    if space != "function" and text is not None:
        raise BadInput("--text FILE: is the text for outputs; use it with --space function")
    if space == "updates" and since_birth:
        raise BadInput("--since-birth: does not apply to --space updates; use it with --space weights or function")


def _vectors(run: Run, points: list[Point], of: str, space: str, text: Path | Text | None, blocks: int) -> Vectors:
    if space != "function":
        return Weights(points)
    from pli_analysis.inference import eval_tokens

    tokens, _ = eval_tokens.batch_of(run, text, blocks)
    return Outputs(points, of, tokens, eval_tokens.spread(tokens, TOKENS))


def _draw(
    points: Sequence[Point], methods: tuple[str, ...], squared: np.ndarray, walk: str, say: Callable[[str], None]
) -> tuple[pd.DataFrame, Components]:
    import pandas as pd

    components = projections.pca(squared)
    rows = [
        (
            point.part,
            point.layer,
            str(point.checkpoint.name),
            point.checkpoint.step,
            point.age,
            point.checkpoint.lineage.index(point.layer),
            point.first,
            point.donor,
            walk,
        )
        for point in points
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    for method in methods:
        table[_axes(method, methods)] = plane_cache.plane(method, squared, components, say)
    return table, components


def _axes(method: str, methods: tuple[str, ...]) -> list[str]:
    """Return the names of the coordinate columns of a method."""
    return [axis if method == methods[0] else col.of_method(axis, method) for axis in (col.X, col.Y)]


def _travel(
    points: Sequence[Point], squared: np.ndarray, walked: np.ndarray, drawn: Sequence[bool]
) -> dict[str, float]:
    """Return the distance from first to last point of each part, relative to a random walk with the same steps."""
    ends: dict[str, tuple[int, int]] = {}
    for number, point in enumerate(points):
        if drawn[number]:
            ends[point.part] = ends.get(point.part, (number, number))[0], number
    return {part: float(np.sqrt(squared[pair] / walked[pair])) for part, pair in ends.items() if walked[pair] > 0}
