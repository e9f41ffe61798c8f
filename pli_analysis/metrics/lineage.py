"""Lineage as tables: births, events, positions over time.

Columns of `layers`, one row for each layer in order of birth:
    layer, initializer, donor
    birth_step  step of its birth
    event_number  number of the growth event that created it; empty for layers that exist from the start
    index       its current index in the stack, 0 at the bottom; empty if it was removed
    heads       number of heads
    ffn_units   width of its FFN; empty if not known for this model family
    confidence  only for a lineage inferred from weights: lowest confidence of its matches, in [0, 1]

Columns of `events`, one row for each event:
    event_number  its number
    step        optimizer updates done before it
    operator    insert, heads, ffn, swap or context; also remove in a lineage inferred from weights, and prune in an
                exported pruned model
    layer       id of the changed layer; several ids are separated by spaces
    index, initializer, donor
    new_size    number of heads, FFN units or context tokens after the event
    stack       layer ids from bottom to top after the event

Columns of `locations`, one row for each layer and each interval of steps without events:
    layer, index
    start_step, end_step  first and last step of the interval; the first interval starts at the run's first known step
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.runs.inferred_lineage import seen_from
from pli_train.core import output

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pli_train.core.lineage import Event, Lineage


def layers(lineage: Lineage, confidence: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the table of all layers, removed ones included.

    Args:
        confidence: confidence of matches, for a lineage inferred from weights: see
            `pli_analysis.runs.inferred_lineage.Inferred`.
    """
    import pandas as pd

    rows = [
        {
            col.LAYER: id,
            col.INDEX: lineage.index(id) if id in lineage.stack else None,
            col.BIRTH_STEP: layer.birth.step,
            col.EVENT_NUMBER: layer.birth.event,
            col.INITIALIZER: layer.birth.initializer,
            col.DONOR: layer.birth.donor,
            col.HEADS: len(layer.heads),
            col.FFN_UNITS: layer.units,
        }
        for id, layer in lineage.layers.items()
    ]
    table = pd.DataFrame(rows).astype({col.INDEX: "Int64", col.EVENT_NUMBER: "Int64", col.FFN_UNITS: "Int64"})
    if confidence is not None:
        least = confidence.groupby(col.PART)[col.CONFIDENCE].min()
        table[col.CONFIDENCE] = [float(least.get(id, 1.0)) for id in table[col.LAYER]]
    return table


def events(lineage: Lineage) -> pd.DataFrame:
    """Return the table of growth events."""
    import pandas as pd

    columns = [col.EVENT_NUMBER, col.STEP, col.OPERATOR, col.LAYER, col.INDEX, col.INITIALIZER, col.DONOR]
    columns += [col.NEW_SIZE, col.STACK]
    rows = [
        {
            **e.facts,
            col.EVENT_NUMBER: e.number,
            col.STEP: e.step,
            col.OPERATOR: e.operator,
            col.NEW_SIZE: e.facts.get("to"),
            col.STACK: " ".join(e.stack),
        }
        for e in lineage.events
    ]
    return pd.DataFrame(rows, columns=columns).astype({col.INDEX: "Int64", col.NEW_SIZE: "Int64"})


def position_of(lineage: Lineage, layer: str, step: int) -> tuple[str, int, int, bool]:
    """Return layer, index in the stack, age at a step, and whether a growth event inserted the layer."""
    birth = lineage.layers[layer].birth
    return layer, lineage.stack.index(layer), step - birth.step, birth.event is not None


def tree(lineage: Lineage) -> list[str]:
    r"""Draw the tree of layers and donors, one line for each layer: layers without a donor at the left, copies below.

    >>> from pli_train.core.lineage import Lineage
    >>> lineage = Lineage.begin(1, heads=2)
    >>> _ = lineage.insert(1, step=5, initializer="clone", donor="a")
    >>> _ = lineage.insert(0, step=9, initializer="clone", donor="b")
    >>> _ = lineage.insert(0, step=9, initializer="random")
    >>> print("\n".join(tree(lineage)))
    a        born at step 0 (random), now at index 2 with 2 heads
    └─ b     born at step 5 (clone), now at index 3 with 2 heads
       └─ c  born at step 9 (clone), now at index 1 with 2 heads
    d        born at step 9 (random), now at index 0 with 2 heads
    """
    children: dict[str | None, list[str]] = {}
    for id, layer in lineage.layers.items():
        children.setdefault(layer.birth.donor, []).append(id)
    named: list[tuple[str, str]] = []

    def grow(id: str, first: str, rest: str) -> None:
        named.append((first + id, id))
        below = children.get(id, [])
        for child in below:
            last = child == below[-1]
            grow(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

    for root in children.get(None, []):
        grow(root, "", "")
    width = max((len(name) for name, _ in named), default=0) + 2
    return [f"{name:<{width}}{_describe(lineage, id)}" for name, id in named]


def _describe(lineage: Lineage, id: str) -> str:
    layer = lineage.layers[id]
    position = f"now at index {lineage.index(id)}" if id in lineage.stack else "no longer in the stack"
    return f"born at step {layer.birth.step} ({layer.birth.initializer}), {position} with {len(layer.heads)} heads"


def write(lineage: Lineage, path: Path) -> None:
    """Write a lineage to a file, which can be edited and read again. Raises as `output.write`."""
    output.write(path, seen_from(deepcopy(lineage), 0).to_json())


def label(event: Event) -> str:
    """Return a short label of an event, for figures.

    >>> from pli_train.core.lineage import Lineage
    >>> lineage = Lineage.begin(1, heads=2)
    >>> _ = lineage.insert(1, step=5, initializer="clone", donor="a")
    >>> lineage.swap(0, 1, step=6)
    >>> [label(event) for event in lineage.events]
    ['+b', 'a ↔ b']
    """
    layer, to = event.facts.get("layer", ""), event.facts.get("to")
    words = {
        "insert": f"+{layer}",
        "remove": f"−{layer}",
        "swap": " ↔ ".join(str(layer).split()),
        "heads": f"{to} heads",
        "ffn": f"FFN {to}",
    }
    return words.get(event.operator, f"{event.operator} {to}" if to else event.operator)


def removals(lineage: Lineage) -> int:
    """Count the events that removed a layer, which occur only in lineages inferred from weights."""
    return sum(event.operator == "remove" for event in lineage.events)


def by_step(lineage: Lineage) -> dict[int, list[str]]:
    """Return the labels of the events of each step with events."""
    labels: dict[int, list[str]] = {}
    for event in lineage.events:
        labels.setdefault(event.step, []).append(label(event))
    return labels


def locations(lineage: Lineage, last_step: int) -> pd.DataFrame:
    """Return the index of each layer in each interval between events."""
    import pandas as pd

    first = min((layer.birth.step for layer in lineage.layers.values() if layer.birth.event is None), default=0)
    starts = [first, *dict.fromkeys(event.step for event in lineage.events)]
    ends = [*starts[1:], last_step]
    rows = [
        (id, index, start, end)
        for start, end in zip(starts, ends, strict=True)
        for index, id in enumerate(lineage.stack_at(start))
    ]
    return pd.DataFrame(rows, columns=[col.LAYER, col.INDEX, col.START_STEP, col.END_STEP])
