"""CompoundGrow (Gu et al. 2021): depth, sequence length and FFN width together.

At each of k growth moments the stack doubles as in `stackbert` (layer i of the new stack starts as layer i mod L of the
old one), every FFN widens, and sequences get longer. A single number for `context` or `units` is the final value; half
of it is used before the last moment, a quarter before the second last, and so on.
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
    layers: int = Field(ge=2, le=MOST, description="final depth: the initial depth times 2, 4, 8, …")
    at: Moments | None = Field(None, description="growth moments (default: stages of equal length)")
    context: Size | list[Size] | None = Field(
        None, description="final sequence length, or its value at each growth moment (one value more: from step 0)"
    )
    units: Size | list[Size] | None = Field(None, description="final FFN units, or their value at each growth moment")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return one doubling per moment, with wider FFNs and longer sequences. Raises BadInput with all mistakes."""
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
        """Return the operator tables; the first is a `context` event at step 0 if there is a length from the start."""
        events = super().events(depth, heads, units, total_steps)
        begins, _ = self._lengths(doublings(depth, self.layers))
        return [*({"operator": "context", "at": 0, "to": length} for length in begins), *events]

    def _widths(self, moments: int, initial: int | None) -> list[int]:
        """Return FFN widths in order of growth, without halves of a single number that the initial model reaches."""
        if not isinstance(self.units, int):
            return self.units or []
        halves = _halves(self.units, moments)[1:]
        return [width for width in halves if width > (initial or 0)] or halves[-1:]

    def _lengths(self, moments: int) -> tuple[list[int], list[int]]:
        """Return the sequence length at step 0, if there is one, and the lengths after growth."""
        if isinstance(self.context, int):
            lengths = _halves(self.context, moments)
        else:
            lengths = self.context or []
        has_initial = len(lengths) == moments + 1
        return (lengths[:1], lengths[1:]) if has_initial else ([], lengths)


def _halves(final: int, moments: int) -> list[int]:
    """Return the values before, between and after growth, the last of which is `final`.

    >>> _halves(512, moments=2)
    [128, 256, 512]
    """
    return [final >> halvings for halvings in range(moments, -1, -1)]


def _uneven(name: str, value: int | list[int] | None, moments: int) -> list[str]:
    if isinstance(value, int) and value % 2**moments:
        return [f"{name} is {value}, which cannot be halved {moments} times; list its values"]
    return []
