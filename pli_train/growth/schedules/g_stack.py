"""G_stack (Du et al. 2024): multiply the stack once, early.

From L to g·L layers, layer i of the new stack starts as layer i mod L of the old one; the paper finds g = 4 best. The
small model is trained on d tokens before it grows. The paper fits d to the N parameters of the grown model and a budget
of C FLOPs:

    log10(d) = 0.88·log10(N) + 163.27 / log10(C) − 5.74
"""

from __future__ import annotations

from math import log10
from typing import ClassVar, Literal

from pydantic import Field

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.growth.schedules.named import CopySchedule, Moment, When, check_deepens
from pli_train.models.config import MOST


class GStack(CopySchedule):
    """Multiply the depth once, with the copies on top."""

    cites: ClassVar[str] = "Du et al. 2024, arXiv 2405.15319"

    name: Literal["g-stack"] = "g-stack"
    growth_factor: int = Field(4, ge=2, le=MOST, description="g: depth after growth ÷ depth before")
    at: When | None = Field(None, description="growth moment (default: the paper's fit, from the next fields)")
    parameters: float | None = Field(None, ge=1, description="N: parameters of the grown model")
    tokens: float | None = Field(None, ge=1, description="D: tokens of the whole training")
    flops: float | None = Field(None, ge=1e3, description="C: FLOPs of the whole training (default: 6·N·D)")

    def moments(self, depth: int, units: int | None) -> list[Moment]:
        """Return the one moment. Raises BadInput when there is no layer to copy, or the moment is unknown."""
        wrong: list[str] = []
        at: int | float | None = None
        try:
            check_deepens(depth, self.growth_factor * depth)
        except BadInput as error:
            wrong += error.mistakes
        try:
            at = self.timing()
        except BadInput as error:
            wrong += error.mistakes
        if wrong:
            raise BadInput(*wrong)
        origins = [i % depth for i in range(self.growth_factor * depth)]
        return [Moment({"at": at}, self.grown(Lineage.begin(depth, heads=0), origins))]

    def timing(self) -> int | float:
        """Return `at`, or else the fraction of training by the paper's fit. Raises BadInput if neither is known."""
        if self.at is not None:
            return self.at
        missing = [name for name in ("parameters", "tokens") if getattr(self, name) is None]
        if self.parameters is None or self.tokens is None:
            raise BadInput(f"at is missing; the paper's fit in its place needs {' and '.join(missing)}")
        flops = self.flops or 6 * self.parameters * self.tokens
        share = growth_tokens(self.parameters, flops) / self.tokens
        if not share < 1:
            raise BadInput(
                f"the paper's fit trains the small model on {share * self.tokens:.3g} tokens, but the whole training "
                f"has {self.tokens:.3g}: a budget of {flops:.3g} FLOPs is below the range of the fit; set at"
            )
        return share


def growth_tokens(parameters: float, flops: float) -> float:
    """Return the tokens d to train on before growth, for a grown model of `parameters` and a budget of `flops`.

    The paper's own example, Llama 3 8B on 15 T tokens, grows after 6.58 B tokens:

    >>> round(growth_tokens(8e9, 6 * 8e9 * 15e12) / 1e9, 1)
    6.6
    """
    return 10 ** (0.88 * log10(parameters) + 163.27 / log10(flops) - 5.74)
