"""CompoundGrow (Gu et al. 2021): depth, sequence length and FFN width together.

At each of k moments the stack doubles as in `stackbert` (layer i of the new one starts as layer i mod L of the old),
every FFN widens, and sequences lengthen. A single number for `context` or `units` is the final one, half of it before
the last moment, a quarter before the one before that, and so on.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.growth.schedules.named import (
    CopySchedule,
    Moment,
    Moments,
    Table,
    evenly,
    not_rising,
    spread,
    too_many,
    wrong_number,
)
from pli_train.growth.schedules.stackbert import doubled, doublings
from pli_train.models.config import MOST

Size = Annotated[int, Field(gt=0)]


class Compound(CopySchedule):
    """Double the depth, widen the FFNs and lengthen the sequences at the same moments."""

    cites: ClassVar[str] = "Gu et al. 2021, arXiv 2010.12562"

    name: Literal["compound"] = "compound"
    layers: int = Field(ge=2, le=MOST, description="depth at the end: the initial depth times 2, 4, 8, …")
    at: Moments | None = Field(None, description="growth moments; none given: stages of equal length")
    context: Size | list[Size] | None = Field(
        None, description="sequence length at the end, or its values; one more of them than moments: from step 0 on"
    )
    units: Size | list[Size] | None = Field(None, description="FFN units at the end, or their values")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """A doubling a moment, with what else grows then. Raises BadInput for all that does not fit."""
        count = doublings(depth, self.layers)
        at: list[int | float] = [*evenly(0, 1, count + 2)[1:-1]] if self.at is None else self.at
        wrong = [] if len(at) == count else [wrong_number(at, count, f"doubling from {depth} to {self.layers} layers")]
        widths = self._widths(count, units)
        begins, lengths = self._lengths(count)
        wrong += [*_uneven("units", self.units, count), *_uneven("context", self.context, count)]
        wrong += [*not_rising("units", widths, units), *too_many("units", widths, count)]
        wrong += [*not_rising("context", [*begins, *lengths], None), *too_many("context", lengths, count)]
        if wrong:
            raise BadInput(*wrong)
        others = [("ffn", spread(widths, count)), ("context", spread(lengths, count))]
        lineage = Lineage.begin(depth, heads=0)
        moments = []
        for number, when in enumerate(at):
            growth = self.grown(lineage, doubled(len(lineage.stack)))
            growth += [{"operator": name, "to": to[number]} for name, to in others if number in to]
            moments.append(Moment({"at": when}, growth))
        return moments

    def events(self, depth: int, heads: int | None, units: int | None, total_steps: int | None) -> list[Table]:
        """As every schedule's; where a length holds from the start, a `context` event at step 0 comes first."""
        events = super().events(depth, heads, units, total_steps)
        begins, _ = self._lengths(doublings(depth, self.layers))
        return [*({"operator": "context", "at": 0, "to": length} for length in begins), *events]

    def _widths(self, moments: int, initial: int | None) -> list[int]:
        """FFN widths in order of growth. Halves of a single one that the model begins with already are left out."""
        if not isinstance(self.units, int):
            return self.units or []
        halves = _halves(self.units, moments)[1:]
        return [width for width in halves if width > (initial or 0)] or halves[-1:]

    def _lengths(self, moments: int) -> tuple[list[int], list[int]]:
        """The sequence length from step 0 on, if it is ours to say, and those that growth brings."""
        if isinstance(self.context, int):
            lengths = _halves(self.context, moments)
        else:
            lengths = self.context or []
        ours = len(lengths) == moments + 1
        return (lengths[:1], lengths[1:]) if ours else ([], lengths)


def _halves(final: int, moments: int) -> list[int]:
    """What `final` is before, between and after growth.

    >>> _halves(512, moments=2)
    [128, 256, 512]
    """
    return [final >> halvings for halvings in range(moments, -1, -1)]


def _uneven(name: str, value: int | list[int] | None, moments: int) -> list[str]:
    if isinstance(value, int) and value % 2**moments:
        return [f"{name} is {value}, which cannot be halved {moments} times; list its values"]
    return []
