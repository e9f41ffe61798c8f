"""Lineage: id, birth, donor and current index of each layer and head.

This module is pure Python, so a lineage can be read without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pli_train.core.lineage import document
from pli_train.core.lineage.identity import BadLineage, Birth, Event, Layer, layer_id
from pli_train.core.run_format import run_folder


@dataclass
class Lineage:
    """All layers ever created, all growth events, and the current stack.

    >>> lineage = Lineage.begin(depth=1, heads=2)
    >>> for index in (1, 1, 2, 2, 2, 3, 3, 3, 4):
    ...     _ = lineage.insert(index, step=0, initializer="random")
    >>> print(lineage)
    a c f i j h g e d b
    >>> lineage.layers["c"].heads["c.h1"].event
    2
    """

    stack: list[str] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    founding: tuple[int, int | None] = (0, None)
    """Heads and FFN units of a layer at step 0, used for the first layer of a run that begins with no layers."""
    stack_path: str | None = None
    """Dotted path of the list of layers in a module without a family table, where readers of its weights find them."""

    @classmethod
    def begin(cls, depth: int, heads: int, initializer: str = "random", units: int | None = None) -> Lineage:
        """Return the lineage of a run at step 0: `depth` layers with `heads` heads and `units` FFN units each."""
        lineage = cls(founding=(heads, units))
        for _ in range(depth):
            lineage._add_layer(Birth(0, None, None, initializer), heads, units)
        lineage.stack = list(lineage.layers)
        return lineage

    def insert(
        self, index: int, step: int, initializer: str, donor: str | None = None, like: str | None = None, **facts: Any
    ) -> str:
        """Record a layer inserted at `step` and `index`; return its id.

        It has as many heads and units as its donor, or as layer `like`, or as the first layer of the stack. `facts` are
        further values to record with this event, such as the noise.
        """
        self.check_index(index)
        if donor is not None:
            self.check_donor(donor)
        number = self._next_number(step)
        model = donor or like or (self.stack[0] if self.stack else None)
        heads, units = self.shape(model) if model else self.founding
        new_id = self._add_layer(Birth(step, number, donor, initializer), heads, units)
        self.stack.insert(index, new_id)
        details = {"layer": new_id, "index": index, "initializer": initializer, "donor": donor, **facts}
        self._add_event(step, "insert", details)
        return new_id

    def add_heads(
        self, counts: dict[str, int], step: int, initializer: str, donors: dict[str, list[str]], **facts: Any
    ) -> list[str]:
        """Record heads added at `step`; return their ids.

        Args:
            counts: layer id → its new number of heads, for each layer that gets heads.
            donors: layer id → one donor head of that layer for each new head, or empty if they have no donors.
        """
        number, born = self._next_number(step), []
        for id, count in counts.items():
            if count <= (had := len(self.layers[id].heads)):
                raise BadLineage(f"layer {id} has {had} heads at that step: {count} is no growth")
        for id, count in counts.items():
            heads = self.layers[id].heads
            names = [f"{id}.h{n}" for n in range(len(heads), count)]
            relatives: list[str | None] = [*donors.get(id, [])] or [None] * len(names)
            for name, donor in zip(names, relatives, strict=True):
                heads[name] = Birth(step, number, donor, initializer)
            born += names
        self._add_event(step, "heads", {"layer": " ".join(counts), "initializer": initializer, "heads": born, **facts})
        return born

    def widen(self, units: dict[str, int], step: int, initializer: str, **facts: Any) -> None:
        """Record FFNs widened at `step`: layer id → its new number of units."""
        number = self._next_number(step)
        for id, count in units.items():
            had = self.layers[id].units
            if had is not None and count <= had:
                raise BadLineage(f"layer {id}'s FFN has {had} units at that step: {count} is no growth")
        for id, count in units.items():
            self.layers[id].widths[number] = count
        self._add_event(step, "ffn", {"layer": " ".join(units), "initializer": initializer, **facts})

    def swap(self, first: int, second: int, step: int, **facts: Any) -> None:
        """Record a permanent swap of the layers at two indices at `step`."""
        self._next_number(step)
        for index in (first, second):
            if not 0 <= index < len(self.stack):
                raise BadLineage(f"index {index} is outside the stack, which has {len(self.stack)} layers ({self})")
        if first == second:
            raise BadLineage(f"index {first} cannot be swapped with itself")
        ids = f"{self.stack[first]} {self.stack[second]}"
        self.stack[first], self.stack[second] = self.stack[second], self.stack[first]
        self._add_event(step, "swap", {"layer": ids, "indices": [first, second], **facts})

    def note(self, operator: str, step: int, **facts: Any) -> None:
        """Record an event that neither creates nor moves a layer or head, such as a longer context."""
        self._next_number(step)
        self._add_event(step, operator, facts)

    def shape(self, id: str) -> tuple[int, int | None]:
        """Return the current number of heads and FFN units of layer `id`."""
        return len(self.layers[id].heads), self.layers[id].units

    def shapes(self) -> list[tuple[int, int | None]]:
        """Return the number of heads and FFN units of each layer of the stack, bottom to top."""
        return [self.shape(id) for id in self.stack]

    def _next_number(self, step: int) -> int:
        if self.events and step < self.events[-1].step:
            raise BadLineage(f"an event at step {step} cannot follow one at step {self.events[-1].step}")
        return len(self.events) + 1

    def _add_event(self, step: int, operator: str, facts: dict[str, Any]) -> None:
        self.events.append(Event(len(self.events) + 1, step, operator, tuple(self.stack), facts))

    def check_index(self, index: int) -> None:
        """Raise BadLineage unless a layer can be inserted at `index`: 0 (the bottom) to the depth (the top)."""
        if not 0 <= index <= len(self.stack):
            raise BadLineage(
                f"index {index} is outside the stack, which has {len(self.stack)} layers at that step "
                f"({self}): use 0 to {len(self.stack)}"
            )

    def check_donor(self, donor: str) -> None:
        """Raise BadLineage unless `donor` is the id of a layer in the stack."""
        if donor not in self.stack:
            raise BadLineage(f"the donor '{donor}' is not in the stack at that step ({self})")

    def shared(self, other: Lineage) -> list[str]:
        """Return the layers that are in both stacks, in the order of this one."""
        return [id for id in self.stack if id in other.stack]

    def index(self, id: str) -> int:
        """Return the current index of layer `id`, counting from 0 at the bottom."""
        return self.stack.index(id)

    def stack_at(self, step: int) -> list[str]:
        """Return the stack after all events up to and including `step`."""
        earlier = [event for event in self.events if event.step <= step]
        if earlier:
            return list(earlier[-1].stack)
        return [id for id, layer in self.layers.items() if layer.birth.event is None]

    def as_of(self, events: int) -> Lineage:
        """Return the lineage as it was after the first `events` events."""
        kept = self.events[:events]
        layers = {
            id: Layer(
                id,
                layer.birth,
                {head: birth for head, birth in layer.heads.items() if (birth.event or 0) <= events},
                {event: units for event, units in layer.widths.items() if event <= events},
            )
            for id, layer in self.layers.items()
            if (layer.birth.event or 0) <= events
        }
        stack = list(kept[-1].stack) if kept else [i for i, layer in layers.items() if layer.birth.event is None]
        return Lineage(stack, layers, kept, self.founding, self.stack_path)

    def _add_layer(self, birth: Birth, heads: int, units: int | None) -> str:
        id = layer_id(len(self.layers))
        names = [f"{id}.h{n}" for n in range(heads)]
        relatives = list(self.layers[birth.donor].heads) if birth.donor else []
        donors = relatives if len(relatives) == heads else [None] * heads
        self.layers[id] = Layer(
            id,
            birth,
            {
                name: Birth(birth.step, birth.event, donor, birth.initializer)
                for name, donor in zip(names, donors, strict=True)
            },
            {} if units is None else {birth.event or 0: units},
        )
        return id

    def __str__(self) -> str:
        return " ".join(self.stack)

    def to_json(self) -> str:
        """Return the text of `lineage.json`: one line per layer and event, the same bytes for the same lineage."""
        return document.written(self.stack, self.layers, self.events, self.founding, self.stack_path)

    @classmethod
    def from_json(cls, text: str) -> Lineage:
        """Parse the text of `to_json`. Raises BadLineage if it is invalid or inconsistent."""
        lineage = cls(*document.parsed(text))
        lineage._check()
        return lineage

    @classmethod
    def read(cls, path: Path) -> Lineage:
        """Read a `lineage.json`. Raises BadInput naming the file; BadLineage if its content is invalid."""
        text = run_folder.read_text(path)
        try:
            return cls.from_json(text)
        except BadLineage as error:
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
        known = {None}.union(*(layer.heads for layer in self.layers.values()))
        for id, layer in self.layers.items():
            if list(layer.heads) != [f"{id}.h{n}" for n in range(len(layer.heads))]:
                raise BadLineage(f"layer {id}'s head ids are not in order of birth")
            if len(layer.heads) and any(birth.donor not in known for birth in layer.heads.values()):
                raise BadLineage(f"layer {id} has a head whose donor was never born")
            for birth in (layer.birth, *layer.heads.values()):
                self._check_birth(id, birth)
            if any(not 0 <= event <= len(self.events) for event in layer.widths):
                raise BadLineage(f"layer {id}'s FFN was widened by an event that is not listed")
            if layer.birth.donor not in (None, *self.layers):
                raise BadLineage(f"layer {id}'s donor was never born")
        if self.events and list(self.events[-1].stack) != self.stack:
            raise BadLineage("the stack is not the one that the last event left")

    def _check_birth(self, id: str, birth: Birth) -> None:
        if birth.event is None:
            at = 0
        elif birth.event <= len(self.events):
            at = self.events[birth.event - 1].step
        else:
            raise BadLineage(f"layer {id} or a head of it was born of event {birth.event}, which is not listed")
        if birth.step != at:
            raise BadLineage(f"layer {id} or a head of it was born at step {birth.step} and not at {at}")
