"""Lineage as tables: who was born when, from whom, and where everybody sat.

Columns of `layers`, one row a layer in order of birth:
    layer, initialiser, donor
    born        step of its birth
    event       number of the growth event that made it, empty for the founders
    index       where it sits now, 0 at the bottom
    heads       how many
    units       width of its FFN, empty where the family's table does not tell

Columns of `events`, one row an event:
    event       its number
    step        optimizer updates done before it
    operator    insert, heads, ffn, swap or context
    layer       whom it concerns, ids apart by blanks
    index, initialiser, donor
    to          heads, FFN units or tokens of context from then on
    stack       ids from bottom to top, once it was done

Columns of `places`, one row for each layer and stretch of steps in which nobody moved:
    layer, index
    start, end  first and last step of the stretch
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from pli_train.lineage import Event, Lineage


def layers(lineage: Lineage) -> pd.DataFrame:
    """Every layer ever born."""
    import pandas as pd

    rows = [
        {
            "layer": id,
            "index": lineage.index(id) if id in lineage.stack else None,
            "born": layer.birth.step,
            "event": layer.birth.event,
            "initialiser": layer.birth.initialiser,
            "donor": layer.birth.donor,
            "heads": len(layer.heads),
            "units": layer.units,
        }
        for id, layer in lineage.layers.items()
    ]
    return pd.DataFrame(rows).astype({"index": "Int64", "event": "Int64", "units": "Int64"})


def events(lineage: Lineage) -> pd.DataFrame:
    """Every growth event."""
    import pandas as pd

    columns = ["event", "step", "operator", "layer", "index", "initialiser", "donor", "to", "stack"]
    rows = [
        {"event": e.number, "step": e.step, "operator": e.operator, **e.facts, "stack": " ".join(e.stack)}
        for e in lineage.events
    ]
    return pd.DataFrame(rows, columns=columns).astype({"index": "Int64", "to": "Int64"})


def label(event: Event) -> str:
    """An event in a word or two, for the margin of a figure.

    >>> from pli_train.lineage import Lineage
    >>> lineage = Lineage.begin(1, heads=2)
    >>> _ = lineage.insert(1, step=5, initialiser="clone", donor="a")
    >>> lineage.swap(0, 1, step=6)
    >>> [label(event) for event in lineage.events]
    ['+b', 'a ↔ b']
    """
    layer, to = event.facts.get("layer", ""), event.facts.get("to")
    words = {"insert": f"+{layer}", "swap": " ↔ ".join(str(layer).split()), "heads": f"{to} heads", "ffn": f"FFN {to}"}
    return words.get(event.operator, f"{event.operator} {to}" if to else event.operator)


def by_step(lineage: Lineage) -> dict[int, list[str]]:
    """Step → what happened there, in a word or two each."""
    found: dict[int, list[str]] = {}
    for event in lineage.events:
        found.setdefault(event.step, []).append(label(event))
    return found


def places(lineage: Lineage, last_step: int) -> pd.DataFrame:
    """Where each layer sat, from stretch to stretch."""
    import pandas as pd

    starts = [0, *dict.fromkeys(event.step for event in lineage.events)]
    ends = [*starts[1:], last_step]
    rows = [
        (id, index, start, end)
        for start, end in zip(starts, ends, strict=True)
        for index, id in enumerate(lineage.stack_at(start) if start else lineage.stack_at(0))
    ]
    return pd.DataFrame(rows, columns=["layer", "index", "start", "end"])
