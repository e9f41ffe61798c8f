"""Identity through growth: who each layer and head is, when it was born, from whom, and where it sits now.

A layer's *id* (`a`, `b`, … `z`, `aa`, …) is given at birth, in order of birth, and never reused; its *index* is
where it sits in the stack at the moment. A head's id is its layer's id and its order of birth there: `c.h3`.
This module is pure Python, so that anything can read a lineage without torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "pli-lineage"
VERSION = 1


class BadLineage(ValueError):
    """A lineage that contradicts itself, or a file that holds none. Its text says what and where."""


def layer_id(number: int) -> str:
    """The id of the `number`-th layer ever born, counting from 0.

    >>> [layer_id(n) for n in (0, 1, 25, 26, 27, 701, 702)]
    ['a', 'b', 'z', 'aa', 'ab', 'zz', 'aaa']
    """
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return letters


@dataclass(frozen=True)
class Birth:
    """How a layer or a head came to be.

    Attributes:
        step: optimizer updates done before it existed; 0 for what the run began with.
        event: number of the growth event that made it (from 1), or None for what the run began with.
        donor: id of the layer or head it was copied from, or None.
        initialiser: how its weights were made (`random`, `clone`, `clone-noise`, `pretrained`, …).
    """

    step: int
    event: int | None
    donor: str | None
    initialiser: str


@dataclass(frozen=True)
class Layer:
    """One layer for as long as the run lives: its birth, and its heads in the order they sit in."""

    id: str
    birth: Birth
    heads: dict[str, Birth]


@dataclass(frozen=True)
class Event:
    """A growth event: its number (from 1), its step, the operator, the stack it left, and the operator's own facts."""

    number: int
    step: int
    operator: str
    stack: tuple[str, ...]
    facts: dict[str, Any]

    def __str__(self) -> str:
        told = ", ".join(f"{key} {value}" for key, value in self.facts.items() if value is not None)
        return f"step {self.step}: {self.operator} {told} → {' '.join(self.stack)}"


@dataclass
class Lineage:
    """Every layer ever born, every event so far, and the stack as it stands.

    >>> lineage = Lineage.begin(depth=1, heads=2)
    >>> for index in (1, 1, 2, 2, 2, 3, 3, 3, 4):
    ...     _ = lineage.insert(index, step=0, initialiser="random")
    >>> print(lineage)
    a c f i j h g e d b
    >>> lineage.layers["c"].heads["c.h1"].event
    2
    """

    stack: list[str] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @classmethod
    def begin(cls, depth: int, heads: int, initialiser: str = "random") -> Lineage:
        """The lineage of a run at step 0: `depth` layers of `heads` heads each."""
        lineage = cls()
        for _ in range(depth):
            lineage._bear(Birth(0, None, None, initialiser), heads)
        lineage.stack = list(lineage.layers)
        return lineage

    def insert(
        self, index: int, step: int, initialiser: str, donor: str | None = None, heads: int | None = None, **facts: Any
    ) -> str:
        """Record a layer born at `step` and set at `index` of the stack; return its id.

        `heads` counts its heads; None takes the donor's count, or that of the stack's first layer. `facts` are
        further things worth remembering about this event (the noise, say).
        """
        self.check_index(index)
        if donor is not None:
            self.check_donor(donor)
        if self.events and step < self.events[-1].step:
            raise BadLineage(f"an event at step {step} cannot follow one at step {self.events[-1].step}")
        number = len(self.events) + 1
        if heads is None:
            heads = len(self.layers[donor or self.stack[0]].heads) if self.stack else 0
        newborn = self._bear(Birth(step, number, donor, initialiser), heads)
        self.stack.insert(index, newborn)
        told = {"layer": newborn, "index": index, "initialiser": initialiser, "donor": donor, **facts}
        self.events.append(Event(number, step, "insert", tuple(self.stack), told))
        return newborn

    def check_index(self, index: int) -> None:
        """Raise BadLineage unless a layer can be inserted at `index`: 0 (the bottom) to the depth (the top)."""
        if not 0 <= index <= len(self.stack):
            raise BadLineage(
                f"index {index} is outside the stack, which has {len(self.stack)} layers then "
                f"({self}): use 0 to {len(self.stack)}"
            )

    def check_donor(self, donor: str) -> None:
        """Raise BadLineage unless `donor` is the id of a layer in the stack."""
        if donor not in self.stack:
            raise BadLineage(f"the donor '{donor}' is not in the stack then ({self})")

    def index(self, id: str) -> int:
        """Where layer `id` sits now, counting from 0 at the bottom."""
        return self.stack.index(id)

    def stack_at(self, step: int) -> list[str]:
        """The stack as it stood once every event up to and including `step` was done."""
        earlier = [event for event in self.events if event.step <= step]
        if earlier:
            return list(earlier[-1].stack)
        return [id for id, layer in self.layers.items() if layer.birth.event is None]

    def as_of(self, events: int) -> Lineage:
        """The lineage as it was when only the first `events` events had happened."""
        kept = self.events[:events]
        layers = {i: layer for i, layer in self.layers.items() if (layer.birth.event or 0) <= events}
        stack = list(kept[-1].stack) if kept else [i for i, layer in layers.items() if layer.birth.event is None]
        return Lineage(stack, layers, kept)

    def _bear(self, birth: Birth, heads: int) -> str:
        id = layer_id(len(self.layers))
        names = [f"{id}.h{n}" for n in range(heads)]
        kin = list(self.layers[birth.donor].heads) if birth.donor else []
        donors = kin if len(kin) == heads else [None] * heads
        self.layers[id] = Layer(
            id,
            birth,
            {
                name: Birth(birth.step, birth.event, donor, birth.initialiser)
                for name, donor in zip(names, donors, strict=True)
            },
        )
        return id

    def __str__(self) -> str:
        return " ".join(self.stack)

    # --- the JSON form -----------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The document kept in `lineage.json`, one line a layer and an event, the same bytes for the same lineage."""
        layers = {
            id: {**vars(layer.birth), "heads": {head: vars(birth) for head, birth in layer.heads.items()}}
            for id, layer in self.layers.items()
        }
        events = [
            {"number": e.number, "step": e.step, "operator": e.operator, **e.facts, "stack": list(e.stack)}
            for e in self.events
        ]
        body = ",\n".join(f"  {json.dumps(id)}: {json.dumps(layer)}" for id, layer in layers.items())
        told = ",\n".join(f"  {json.dumps(event)}" for event in events)
        return (
            f'{{"format": "{FORMAT}", "version": {VERSION},\n"stack": {json.dumps(self.stack)},\n'
            f'"layers": {{\n{body}\n}},\n"events": [\n{told}\n]}}\n'
        )

    @classmethod
    def from_json(cls, text: str) -> Lineage:
        """Read what `to_json` wrote. Raises BadLineage when it is something else, or contradicts itself."""
        try:
            document = json.loads(text)
            if document["format"] != FORMAT or document["version"] > VERSION:
                raise BadLineage(f"format {document['format']!r} version {document['version']!r} is not known here")
            layers = {id: _layer(id, told) for id, told in document["layers"].items()}
            events = [_event(told) for told in document["events"]]
            lineage = cls(list(document["stack"]), layers, events)
        except BadLineage:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadLineage(f"no lineage: {type(error).__name__} {error}") from None
        lineage._check()
        return lineage

    @classmethod
    def read(cls, path: Path) -> Lineage:
        """Read a `lineage.json`. Raises BadLineage naming the file."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (BadLineage, OSError, UnicodeDecodeError) as error:
            raise BadLineage(f"{path}: {error}") from None

    def _check(self) -> None:
        stacks = [self.stack, *(event.stack for event in self.events)]
        if any(len(set(stack)) != len(stack) or not set(stack) <= set(self.layers) for stack in stacks):
            raise BadLineage("a stack names a layer twice, or one that was never born")
        if list(self.layers) != [layer_id(n) for n in range(len(self.layers))]:
            raise BadLineage("layer ids are not in order of birth")
        if [event.number for event in self.events] != list(range(1, len(self.events) + 1)):
            raise BadLineage("events are not numbered 1, 2, 3, …")
        if sorted(event.step for event in self.events) != [event.step for event in self.events]:
            raise BadLineage("events are not in order of their steps")
        if self.events and list(self.events[-1].stack) != self.stack:
            raise BadLineage("the stack is not the one that the last event left")


def _birth(told: dict[str, Any]) -> Birth:
    birth = Birth(told["step"], told["event"], told["donor"], told["initialiser"])
    if not isinstance(birth.step, int) or not isinstance(birth.event, int | None):
        raise BadLineage("a birth's step and event are whole numbers")
    return birth


def _layer(id: str, told: dict[str, Any]) -> Layer:
    return Layer(id, _birth(told), {head: _birth(birth) for head, birth in told["heads"].items()})


def _event(told: dict[str, Any]) -> Event:
    facts = {key: value for key, value in told.items() if key not in ("number", "step", "operator", "stack")}
    if not isinstance(told["number"], int) or not isinstance(told["step"], int):
        raise BadLineage("an event's number and step are whole numbers")
    return Event(told["number"], told["step"], told["operator"], tuple(told["stack"]), facts)
