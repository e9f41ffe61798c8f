"""Operator: insert a layer.

This is the operator of PLI, of StackBERT (Gong et al. 2019, proceedings.mlr.press/v97/gong19a) and of later methods to
grow depth: a new layer of the stack's shape at a chosen index. Layers at or above that index move up by one.
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
    """Insert a layer."""

    operator: Literal["insert"] = "insert"
    index: int = Field(ge=0, description="index of the new layer, 0 at the bottom")
    initializer: Initializer = Field("clone", description="how its weights are initialized")
    donor: str = Field(BELOW, description="the layer to clone: `below`, `above`, or a layer id")
    noise: float = Field(0.0, ge=0, description="clone-noise: standard deviation ÷ that of each weight matrix")

    def __str__(self) -> str:
        return f"{self.time}@{self.index}"

    @property
    def donorless(self) -> str:
        """Why the new layer has no donor: it is random or an average; else empty."""
        return f"initializer '{self.initializer}'" if self.initializer in DONORLESS else ""

    def misfit(self, start: InitialShape) -> str | None:
        """Return why the index or the initializer is impossible in this family, or None."""
        if self.index < start.first_index:
            return f"index {self.index} is reserved in this model family; use {start.first_index} or higher"
        if self.initializer == "identity" and not start.identity:
            return "initializer 'identity' needs a family whose parameter table has output projections"
        return None

    def donor_id(self, lineage: Lineage) -> str | None:
        """Return the donor's id, or None without a donor. Raises BadLineage when the donor does not exist."""
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
        """Return the ids of the layers below and above the new one, if there are any."""
        return lineage.stack[max(self.index - 1, 0) : self.index + 1]

    def record(self, lineage: Lineage, step: int) -> None:
        """Add the insertion to `lineage`. Raises BadLineage when the event is impossible."""
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
        """Insert a new layer into `model`, its random numbers drawn from `seed`.

        Raises:
            BadInput: when the index is reserved for a bottom layer that differs from the others.
        """
        from pli_train.models import build as models

        if self.index < anatomy.first_index:
            free = f"use {anatomy.first_index} or higher"
            raise BadInput(f"index {self.index} is reserved in a {anatomy.model_type}; {free}")

        layers = models.stack_of(model, anatomy)
        donor, near = self.donor_id(lineage), self.neighbors(lineage)
        like = donor or (near[0] if near else None)
        template = layers[lineage.index(like)] if like else models.lone_layer(model, anatomy, *lineage.founding)
        around = tuple(layers[lineage.index(id)] for id in near)
        position = InsertionPoint(model, anatomy, template, around, seed, self.noise)
        # Before the layer is made, as GPT-2 initializes deeper models with smaller weights.
        models.set_config_fields(model, anatomy, {"depth": len(layers) + 1})
        newborn = INITIALIZERS[self.initializer](position).to(next(model.parameters()).device)
        if self.initializer == "identity" and anatomy.norm == "post":
            identity_init.take_over_norm(newborn, identity_init.norm_below(self.index, model, layers, anatomy), anatomy)
        models.put_into_stack(newborn, self.index, model, anatomy, lineage.index(like) if like else None)
        old = dict(template.named_parameters()) if like else {}
        keep = (lambda moment: moment.clone()) if donor else None
        return [ParameterOrigin(new, old.get(name), copy=keep) for name, new in newborn.named_parameters()]

    def outcome(self, lineage: Lineage) -> str:
        """Return for example `b: clone of a`."""
        facts = lineage.events[-1].facts
        noise = f" {self.noise:g}" if self.initializer == "clone-noise" else ""
        donors = facts["donor"] or " and ".join(facts.get("donors", "").split())
        return f"{facts['layer']}: {self.initializer}{noise}" + (f" of {donors}" if donors else "")
