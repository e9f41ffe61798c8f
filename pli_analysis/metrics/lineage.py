"""Lineage as tables: births, events, positions over time.

Columns of `layers`, one row a layer in order of birth:
    layer, initializer, donor
    birth_step  step of its birth
    event_number  number of the growth event that made it, empty for the founders
    index       where it sits now, 0 at the bottom
    heads       how many
    ffn_units   width of its FFN, empty where the family's table does not tell
    confidence  only of a lineage inferred from weights: the lowest of its matches, in [0, 1]

Columns of `events`, one row an event:
    event_number  its number
    step        optimizer updates done before it
    operator    insert, heads, ffn, swap or context; remove where weights tell that a layer was taken out
    layer       whom it concerns, ids apart by blanks
    index, initializer, donor
    new_size    heads, FFN units or tokens of context from then on
    stack       ids from bottom to top, once it was done

Columns of `locations`, one row for each layer and stretch of steps in which nobody moved:
    layer, index
    start_step, end_step  first and last step of the stretch; the first begins where the run is first seen
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
    """Every layer ever born.

    Args:
        confidence: of a lineage inferred from weights, see `pli_analysis.runs.inferred_lineage.Inferred`.
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
    """Every growth event."""
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


def tree(lineage: Lineage) -> list[str]:
    r"""Who was copied from whom, a line a layer: founders and layers without a donor at the left, copies below donors.

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
    """Write a lineage as a file, which can be edited and given back. Raises as `output.write`."""
    output.write(path, seen_from(deepcopy(lineage), 0).to_json())


def label(event: Event) -> str:
    """An event in a word or two, for the margin of a figure.

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
    """How many events took a layer out of the stack: only a lineage inferred from weights has any."""
    return sum(event.operator == "remove" for event in lineage.events)


def by_step(lineage: Lineage) -> dict[int, list[str]]:
    """Step → what happened there, in a word or two each."""
    found: dict[int, list[str]] = {}
    for event in lineage.events:
        found.setdefault(event.step, []).append(label(event))
    return found


def locations(lineage: Lineage, last_step: int) -> pd.DataFrame:
    """Where each layer sat, from stretch to stretch."""
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
