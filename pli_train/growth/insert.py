"""Insert a layer into the stack.

PLI's own operator, and the depth operator of StackBERT (Gong et al. 2019, proceedings.mlr.press/v97/gong19a) and of
those after it: a new layer of the stack's shape at a chosen index, everything at or above that index shifts up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pli_train.errors import did_you_mean
from pli_train.growth.initialisers import INITIALISERS
from pli_train.lineage import Lineage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pli_train.anatomy import Anatomy

BELOW, ABOVE = "below", "above"


def _known(initialiser: str) -> str:
    if initialiser not in INITIALISERS:
        near = did_you_mean(initialiser, INITIALISERS)
        raise ValueError(f"unknown initialiser '{initialiser}'{near} (known: {', '.join(INITIALISERS)})")
    return initialiser


Initialiser = Annotated[str, AfterValidator(_known)]


class Insert(BaseModel):
    """One insertion of a schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operator: Literal["insert"] = "insert"
    at: int | float = Field(description="when: a whole number of steps, or a fraction of training")
    index: int = Field(ge=0, description="where the layer will sit, 0 at the bottom")
    initialiser: Initialiser = Field("clone", description="how its weights start")
    donor: str = Field(BELOW, description="the layer to clone: `below`, `above`, or a layer id")
    noise: float = Field(0.0, ge=0, description="clone-noise: standard deviation ÷ that of each weight matrix")

    def __str__(self) -> str:
        return f"{self.at}@{self.index}"

    def donor_id(self, lineage: Lineage) -> str | None:
        """The id of the layer that lends its weights, None for `random`. Raises BadLineage when it is not there."""
        if self.initialiser == "random":
            return None
        if self.donor == BELOW:
            return lineage.stack[max(self.index - 1, 0)]
        if self.donor == ABOVE:
            return lineage.stack[min(self.index, len(lineage.stack) - 1)]
        lineage.check_donor(self.donor)
        return self.donor

    def record(self, lineage: Lineage, step: int) -> str:
        """Write the insertion into `lineage` and return the newborn's id. Raises BadLineage when it cannot be done."""
        lineage.check_index(self.index)
        noise = self.noise if self.initialiser == "clone-noise" else None
        return lineage.insert(self.index, step, self.initialiser, self.donor_id(lineage), noise=noise)

    def grow(self, model: PreTrainedModel, anatomy: Anatomy, lineage: Lineage, seed: int) -> None:
        """Insert into `model` the newborn that would be drawn from `seed`. `lineage` is the one before the event."""
        from pli_train.model import put_into_stack, stack_of

        layers = stack_of(model, anatomy)
        donor = self.donor_id(lineage)
        template = layers[lineage.index(donor)] if donor else layers[0]
        newborn = INITIALISERS[self.initialiser](template, model, seed, self.noise)
        put_into_stack(newborn.to(next(template.parameters()).device), self.index, model, anatomy)
