"""MIDAS (Saunshi et al. 2024): copy the middle block in place, in stages.

A stack of n blocks of b layers becomes one of n+1: a copy of block ⌈n/2⌉, counted from 1, is inserted right above it.
With k stages of training in all, stage i takes the fraction i^α / Σj^α of it (j = 1 … k), so that later, deeper stages
are longer. The paper begins with one block and grows k−1 times; from n blocks, the first stage is still i = 1.
"""

from __future__ import annotations

from itertools import accumulate
from typing import ClassVar, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.growth.schedules.named import CopySchedule, Moment, check_deepens
from pli_train.models.config import MOST


class Midas(CopySchedule):
    """Copy the middle block in place, in stages that get longer."""

    cites: ClassVar[str] = "Saunshi et al. 2024, arXiv 2409.19044"

    name: Literal["midas"] = "midas"
    layers: int = Field(ge=2, le=MOST, description="final depth, a multiple of `block`")
    block: int | None = Field(None, ge=1, description="b: layers in a block (default: the initial depth)")
    alpha: float = Field(1.0, ge=0, le=100, description="α: 0 for stages of equal length, higher for later growth")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return one block per moment. Raises BadInput when a depth is no multiple of the block."""
        check_deepens(depth, self.layers)
        block = self.block or depth
        wrong = [
            f"{what}, {number}, is not a multiple of the block of {block}"
            for what, number in (("the initial depth", depth), ("layers", self.layers))
            if number % block
        ]
        if wrong:
            raise BadInput(*wrong)
        ends = accumulate(stage_lengths((self.layers - depth) // block + 1, self.alpha))
        lineage = Lineage.begin(depth, heads=0)
        moments = []
        for blocks, end in zip(range(depth // block, self.layers // block), ends, strict=False):
            moments.append(Moment({"at": round(end, 12)}, self.grown(lineage, middle_copied(blocks, block))))
        return moments


def middle_copied(blocks: int, block: int) -> list[int]:
    """Return, for each layer of the grown stack, the index of the old layer that it copies.

    >>> middle_copied(blocks=3, block=2)
    [0, 1, 2, 3, 2, 3, 4, 5]
    """
    top = (blocks + 1) // 2 * block
    return [*range(top), *range(top - block, blocks * block)]


def stage_lengths(stages: int, alpha: float) -> list[float]:
    """Return the fraction of training of each stage.

    >>> stage_lengths(4, alpha=1)
    [0.1, 0.2, 0.3, 0.4]
    """
    # Powers of i/k in place of i give the same fractions without overflow.
    powers = [(i / stages) ** alpha for i in range(1, stages + 1)]
    return [power / sum(powers) for power in powers]
