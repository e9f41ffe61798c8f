"""Operator: insert a layer.

PLI's own operator, and the depth operator of StackBERT (Gong et al. 2019, proceedings.mlr.press/v97/gong19a) and of
those after it: a new layer of the stack's shape at a chosen index, everything at or above that index shifts up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.growth import identity_init
from pli_train.growth.initial_shape import InitialShape
from pli_train.growth.initializers import DONORLESS, INITIALIZERS, InsertionPoint
from pli_train.growth.operators.base import Operator
from pli_train.optim.parameter_origin import ParameterOrigin

if TYPE_CHECKING:
    from torch import nn

    from pli_train.core.anatomy import Anatomy

BELOW, ABOVE = "below", "above"


def _known(initializer: str) -> str:
    if initializer not in INITIALIZERS:
        near = did_you_mean(initializer, INITIALIZERS)
        raise ValueError(f"unknown initializer '{initializer}'{near} (known: {', '.join(INITIALIZERS)})")
    return initializer


Initializer = Annotated[str, AfterValidator(_known)]


class Insert(Operator):
    """One insertion of a schedule."""

    operator: Literal["insert"] = "insert"
    index: int = Field(ge=0, description="where the layer will sit, 0 at the bottom")
    initializer: Initializer = Field("clone", description="how its weights start")
    donor: str = Field(BELOW, description="the layer to clone: `below`, `above`, or a layer id")
    noise: float = Field(0.0, ge=0, description="clone-noise: standard deviation ÷ that of each weight matrix")

    def __str__(self) -> str:
        return f"{self.time}@{self.index}"

    @property
    def donorless(self) -> str:
        """A layer drawn at random or averaged has no donor."""
        return f"initializer '{self.initializer}'" if self.initializer in DONORLESS else ""

    def misfit(self, start: InitialShape) -> str | None:
        """Families fix some places, and some have no table to say what makes a layer the identity."""
        if self.index < start.first_index:
            return f"index {self.index} is taken for good in this family: use {start.first_index} or higher"
        if self.initializer == "identity" and not start.identity:
            return "initializer 'identity' needs a family whose table names its output projections"
        return None

    def donor_id(self, lineage: Lineage) -> str | None:
        """The id of the layer that lends its weights, None when nobody does. Raises BadLineage when it is not there."""
        if self.initializer in DONORLESS:
            return None
        if not lineage.stack:
            raise BadLineage(f"the stack is empty then: there is no donor for initializer '{self.initializer}'")
        if self.donor == BELOW:
            return lineage.stack[max(self.index - 1, 0)]
        if self.donor == ABOVE:
            return lineage.stack[min(self.index, len(lineage.stack) - 1)]
        lineage.check_donor(self.donor)
        return self.donor

    def neighbors(self, lineage: Lineage) -> list[str]:
        """The ids of the layers below and above the place, as far as there are any."""
        return lineage.stack[max(self.index - 1, 0) : self.index + 1]

    def record(self, lineage: Lineage, step: int) -> None:
        """Write the insertion into `lineage`. Raises BadLineage when it cannot be done."""
        lineage.check_index(self.index)
        donor = self.donor_id(lineage)
        facts: dict[str, Any] = {}
        if self.initializer == "clone-noise":
            facts["noise"] = self.noise
        if self.initializer == "average":
            facts["donors"] = " ".join(self.neighbors(lineage))
            if len({lineage.shape(id) for id in self.neighbors(lineage)}) != 1:
                raise BadLineage(f"layers {facts['donors']} differ in heads or FFN units and have no average")
        like = self.neighbors(lineage)[0] if lineage.stack else None
        lineage.insert(self.index, step, self.initializer, donor, like, **facts, **self.policies)

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """Insert into `model` the newborn that would be drawn from `seed`.

        Raises:
            BadInput: below a bottom layer that lacks something and can therefore not move up.
        """
        from pli_train.models import build as models

        if self.index < anatomy.first_index:
            free = f"use {anatomy.first_index} or higher"
            raise BadInput(f"index {self.index} is taken for good in a {anatomy.model_type}: {free}")

        layers = models.stack_of(model, anatomy)
        donor, near = self.donor_id(lineage), self.neighbors(lineage)
        like = donor or (near[0] if near else None)
        template = layers[lineage.index(like)] if like else models.lone_layer(model, anatomy, *lineage.founding)
        around = tuple(layers[lineage.index(id)] for id in near)
        position = InsertionPoint(model, anatomy, template, around, seed, self.noise)
        models.set_config_fields(model, anatomy, {"depth": len(layers) + 1})  # GPT-2 draws deeper models smaller
        newborn = INITIALIZERS[self.initializer](position).to(next(model.parameters()).device)
        if self.initializer == "identity" and anatomy.norm == "post":
            identity_init.take_over_norm(newborn, identity_init.norm_below(self.index, model, layers, anatomy), anatomy)
        models.put_into_stack(newborn, self.index, model, anatomy, lineage.index(like) if like else None)
        old = dict(template.named_parameters()) if like else {}
        keep = (lambda moment: moment.clone()) if donor else None
        return [ParameterOrigin(new, old.get(name), copy=keep) for name, new in newborn.named_parameters()]

    def outcome(self, lineage: Lineage) -> str:
        """`b: clone of a`."""
        facts = lineage.events[-1].facts
        noise = f" {self.noise:g}" if self.initializer == "clone-noise" else ""
        donors = facts["donor"] or " and ".join(facts.get("donors", "").split())
        return f"{facts['layer']}: {self.initializer}{noise}" + (f" of {donors}" if donors else "")
