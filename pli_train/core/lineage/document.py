"""Read and write `lineage.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pli_train.core.lineage.identity import BadLineage, Birth, Event, Layer

FORMAT = "pli-lineage"
VERSION = 2
OLD_KEYS = {"initialiser": "initializer"}
"""Renamed keys: name in version 1 → current name."""
NEEDED = {("rewarm_steps", "rewarm"), ("rewarm_steps", "rewarm-new")}
"""(fact, learning-rate policy): facts that an event with this policy must have."""

Founding = tuple[int, int | None]


def written(
    stack: Sequence[str],
    layers: Mapping[str, Layer],
    events: Sequence[Event],
    founding: Founding,
    stack_path: str | None = None,
) -> str:
    """Return the text of the document: one line per layer and event, the same bytes for the same lineage."""
    records = {
        id: {
            **vars(layer.birth),
            "heads": {head: vars(birth) for head, birth in layer.heads.items()},
            "units": {str(event): units for event, units in layer.widths.items()},
        }
        for id, layer in layers.items()
    }
    body = ",\n".join(f"  {json.dumps(id)}: {json.dumps(layer)}" for id, layer in records.items())
    lines = ",\n".join(
        "  "
        + json.dumps({"number": e.number, "step": e.step, "operator": e.operator, **e.facts, "stack": list(e.stack)})
        for e in events
    )
    path = "" if stack_path is None else f'"stack_path": {json.dumps(stack_path)},\n'
    return (
        f'{{"format": "{FORMAT}", "version": {VERSION},\n"founding": {json.dumps(founding)},\n'
        f'"stack": {json.dumps(list(stack))},\n{path}'
        f'"layers": {{\n{body}\n}},\n"events": [\n{lines}\n]}}\n'
    )


def parsed(text: str) -> tuple[list[str], dict[str, Layer], list[Event], Founding, str | None]:
    """Parse the text that `written` returns. Raises BadLineage if it is invalid."""
    try:
        document = json.loads(text, parse_constant=_reject_constant, object_pairs_hook=_with_current_keys)
        if document["format"] != FORMAT or document["version"] > VERSION:
            raise BadLineage(f"format {document['format']!r} version {document['version']!r} is not supported")
        layers = {id: _layer(id, record) for id, record in document["layers"].items()}
        events = [_event(record) for record in document["events"]]
        path = document.get("stack_path")  # absent in older files, and for families with a table
        if not isinstance(path, str | None):
            raise BadLineage(f"stack_path: {path!r} is not a dotted path")
        return _ids(document["stack"], "the stack"), layers, events, _founding(*document["founding"]), path
    except BadLineage:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadLineage(f"not a lineage: {type(error).__name__} {error}") from None


def _with_current_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with renamed keys replaced by their current names."""
    return {OLD_KEYS.get(key, key): value for key, value in pairs}


def _reject_constant(name: str) -> None:
    raise BadLineage(f"not a lineage: it holds {name}, expected a number")


def _integer(value: object, what: str, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**53:
        raise BadLineage(f"{what}: {value!r} is not a whole number from {least}")
    return value


def _founding(heads: object, units: object) -> Founding:
    return _integer(heads, "founding heads", 0), None if units is None else _integer(units, "founding units")


def _ids(values: object, what: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadLineage(f"{what}: not a list of ids")
    return values


def _birth(record: dict[str, Any]) -> Birth:
    birth = Birth(record["step"], record["event"], record["donor"], record["initializer"])
    _integer(birth.step, "the step of a birth", 0)
    if birth.event is not None:
        _integer(birth.event, "the event of a birth")
    if not isinstance(birth.donor, str | None) or not isinstance(birth.initializer, str):
        raise BadLineage("a birth's donor and initializer must be names")
    return birth


def _layer(id: str, record: dict[str, Any]) -> Layer:
    heads = {head: _birth(birth) for head, birth in record["heads"].items()}
    widths = {int(event): _integer(units, "units of an FFN") for event, units in record["units"].items()}
    return Layer(id, _birth(record), heads, widths)


def _event(record: dict[str, Any]) -> Event:
    facts = {key: value for key, value in record.items() if key not in ("number", "step", "operator", "stack")}
    number, step = _integer(record["number"], "an event's number"), _integer(record["step"], "an event's step", 0)
    if not isinstance(record["operator"], str):
        raise BadLineage(f"event {number}: its operator is not a name")
    if record["operator"] == "context":
        _integer(facts.get("to"), f"event {number}: its context")
    for key, least in (("freeze_steps", 0), ("rewarm_steps", 1)):
        if key in facts or (key, facts.get("learning_rate")) in NEEDED:
            _integer(facts.get(key), f"event {number}: {key}", least)
    if any(not isinstance(facts.get(key, ""), str) for key in ("layer", "learning_rate")):
        raise BadLineage(f"event {number}: its layer and learning_rate must be names")
    return Event(number, step, record["operator"], tuple(_ids(record["stack"], f"event {number}: its stack")), facts)
