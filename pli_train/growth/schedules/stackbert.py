"""Progressive stacking (Gong et al. 2019): double the stack.

From L to 2L layers, layer i of the new stack starts as layer i mod L of the old one: the top half copies the bottom
half in order. The paper trains BERT-base with 3, 6 and 12 layers for 50, 70 and 280 thousand of 400 thousand steps,
that is, doubles at fractions 0.125 and 0.3. For a number k of doublings other than two, the default keeps the paper's
70 % at full depth and makes the k stages before it equally long: 0.3·i/k.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.growth.schedules.named import CopySchedule, Moment, Moments, check_deepens, wrong_number
from pli_train.models.config import MOST

FULL_DEPTH_FROM = 0.3
OF_THE_PAPER = [0.125, 0.3]


class StackBert(CopySchedule):
    """Double the depth at each moment, with the copies on top."""

    cites: ClassVar[str] = "Gong et al. 2019, proceedings.mlr.press/v97/gong19a"

    name: Literal["stackbert"] = "stackbert"
    layers: int = Field(ge=2, le=MOST, description="final depth: the initial depth times 2, 4, 8, …")
    at: Moments | None = Field(None, description="growth moments (default: the paper's stage lengths)")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return one doubling per moment. Raises BadInput when the depth is no doubling, or `at` has a wrong length."""
        count = doublings(depth, self.layers)
        at = usual_moments(count) if self.at is None else self.at
        if len(at) != count:
            raise BadInput(wrong_number(at, count, f"doubling from {depth} to {self.layers} layers"))
        lineage = Lineage.begin(depth, heads=0)
        return [Moment({"at": when}, self.grown(lineage, doubled(len(lineage.stack)))) for when in at]


def doubled(depth: int) -> list[int]:
    """Return, for each layer of the doubled stack, the index of the old layer that it copies.

    >>> doubled(3)
    [0, 1, 2, 0, 1, 2]
    """
    return [i % depth for i in range(2 * depth)]


def doublings(depth: int, layers: int) -> int:
    """Return the number of doublings from `depth` to `layers` layers. Raises BadInput when there is none.

    >>> doublings(3, 12)
    2
    """
    check_deepens(depth, layers)
    count = (layers // depth).bit_length() - 1
    if depth << count != layers:
        near = sorted({depth << max(count, 1), depth << count + 1})
        raise BadInput(
            f"layers is {layers}, but doubling {depth} layers gives {' or '.join(map(str, near))}, never {layers}"
        )
    return count


def usual_moments(count: int) -> list[int | float]:
    """Return the default moments of `count` doublings.

    >>> usual_moments(3)
    [0.1, 0.2, 0.3]
    """
    if count == len(OF_THE_PAPER):
        return [*OF_THE_PAPER]
    return [round(FULL_DEPTH_FROM * (i + 1) / count, 12) for i in range(count)]
