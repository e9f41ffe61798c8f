"""Read and write `lineage.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pli_train.core.lineage.identity import BadLineage, Birth, Event, Layer

FORMAT = "pli-lineage"
VERSION = 2
OLD_KEYS = {"initialiser": "initializer"}
"""Keys of version 1 that have another name now."""
NEEDED = {("rewarm_steps", "rewarm"), ("rewarm_steps", "rewarm-new")}
"""Facts of an event that its policy for the learning rate cannot do without."""

Founding = tuple[int, int | None]


def written(stack: Sequence[str], layers: Mapping[str, Layer], events: Sequence[Event], founding: Founding) -> str:
    """The document, one line a layer and an event, the same bytes for the same lineage."""
    message = {
        id: {
            **vars(layer.birth),
            "heads": {head: vars(birth) for head, birth in layer.heads.items()},
            "units": {str(event): units for event, units in layer.widths.items()},
        }
        for id, layer in layers.items()
    }
    body = ",\n".join(f"  {json.dumps(id)}: {json.dumps(layer)}" for id, layer in message.items())
    lines = ",\n".join(
        "  "
        + json.dumps({"number": e.number, "step": e.step, "operator": e.operator, **e.facts, "stack": list(e.stack)})
        for e in events
    )
    return (
        f'{{"format": "{FORMAT}", "version": {VERSION},\n"founding": {json.dumps(founding)},\n'
        f'"stack": {json.dumps(list(stack))},\n'
        f'"layers": {{\n{body}\n}},\n"events": [\n{lines}\n]}}\n'
    )


def parsed(text: str) -> tuple[list[str], dict[str, Layer], list[Event], Founding]:
    """What `written` was given. Raises BadLineage when the text is something else."""
    try:
        document = json.loads(text, parse_constant=_no_number, object_pairs_hook=_current)
        if document["format"] != FORMAT or document["version"] > VERSION:
            raise BadLineage(f"format {document['format']!r} version {document['version']!r} is not known here")
        layers = {id: _layer(id, message) for id, message in document["layers"].items()}
        events = [_event(message) for message in document["events"]]
        return _texts(document["stack"], "the stack"), layers, events, _founding(*document["founding"])
    except BadLineage:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadLineage(f"no lineage: {type(error).__name__} {error}") from None


def _current(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object with the keys that this version has."""
    return {OLD_KEYS.get(key, key): value for key, value in pairs}


def _no_number(name: str) -> None:
    raise BadLineage(f"no lineage: it holds {name} where a number belongs")


def _whole(value: object, what: str, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**53:
        raise BadLineage(f"{what}: {value!r} is not a whole number from {least}")
    return value


def _founding(heads: object, units: object) -> Founding:
    return _whole(heads, "founding heads", 0), None if units is None else _whole(units, "founding units")


def _texts(values: object, what: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadLineage(f"{what}: not a list of ids")
    return values


def _birth(message: dict[str, Any]) -> Birth:
    birth = Birth(message["step"], message["event"], message["donor"], message["initializer"])
    _whole(birth.step, "the step of a birth", 0)
    if birth.event is not None:
        _whole(birth.event, "the event of a birth")
    if not isinstance(birth.donor, str | None) or not isinstance(birth.initializer, str):
        raise BadLineage("a birth's donor and initializer are names")
    return birth


def _layer(id: str, message: dict[str, Any]) -> Layer:
    heads = {head: _birth(birth) for head, birth in message["heads"].items()}
    widths = {int(event): _whole(units, "units of an FFN") for event, units in message["units"].items()}
    return Layer(id, _birth(message), heads, widths)


def _event(message: dict[str, Any]) -> Event:
    facts = {key: value for key, value in message.items() if key not in ("number", "step", "operator", "stack")}
    number, step = _whole(message["number"], "an event's number"), _whole(message["step"], "an event's step", 0)
    if not isinstance(message["operator"], str):
        raise BadLineage(f"event {number}: its operator is no name")
    if message["operator"] == "context":
        _whole(facts.get("to"), f"event {number}: its context")
    for key, least in (("freeze_steps", 0), ("rewarm_steps", 1)):
        if key in facts or (key, facts.get("learning_rate")) in NEEDED:
            _whole(facts.get(key), f"event {number}: {key}", least)
    if any(not isinstance(facts.get(key, ""), str) for key in ("layer", "learning_rate")):
        raise BadLineage(f"event {number}: its layer and learning_rate are names")
    return Event(
        number, step, message["operator"], tuple(_texts(message["stack"], f"event {number}: its stack")), facts
    )
