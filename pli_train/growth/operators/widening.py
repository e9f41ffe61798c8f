"""Base class of the operators that add heads and widen FFNs.

A new head (or unit) brings its own rows of Q, K and V (of the up-projections) and its own columns of the output
projection. If those columns are zero, the layer's output does not change (as with Net2Net's wider layer, Chen et al.
2016, arXiv:1511.05641, and in Gesmundo and Maile 2023, arXiv:2308.06103). If they are split between donor and copies,
it does not change either, but copies with equal weights get equal gradients: add noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from pli_train.core.anatomy.axes import NOTHING, from_rows
from pli_train.core.anatomy.axes import rows as rows_of
from pli_train.core.lineage import BadLineage, Lineage
from pli_train.core.randomness import derive
from pli_train.growth.initializers import InsertionPoint, add_noise, random
from pli_train.growth.operators.base import Operator
from pli_train.optim.parameter_origin import ParameterOrigin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pli_train.core.anatomy import Anatomy

PartInitializer = Literal["random", "clone", "clone-noise"]
Output = Literal["zero", "split", "kept"]


class WideningOperator(Operator):
    """Fields and methods shared by adding heads and widening FFNs."""

    to: int = Field(ge=1, description="number of heads or units of each layer after the event")
    layers: list[str] | None = Field(
        None, description="ids of the layers to widen (default: all layers that have fewer)"
    )
    initializer: PartInitializer = Field("clone", description="how they are initialized")
    output: Output = Field("zero", description="their output columns: zero, split with the donor, or as initialized")
    noise: float = Field(0.0, ge=0, description="clone-noise: standard deviation ÷ that of each weight matrix")

    what: ClassVar[str]
    """`heads` or `units`."""

    @model_validator(mode="after")
    def _donor_for_split(self) -> WideningOperator:
        if self.output == "split" and self.initializer == "random":
            raise ValueError("`output = \"split\"` needs a donor: initializer 'random' has none")
        return self

    @property
    def donorless(self) -> str:
        """Why the new parts have no donor: they are random; else empty."""
        return "initializer 'random'" if self.initializer == "random" else ""

    def __str__(self) -> str:
        return f"{self.time} {self.operator} → {self.to}"

    def targets(self, lineage: Lineage) -> dict[str, int]:
        """Return layer id → number of parts after the event, for the layers that grow.

        Raises:
            BadLineage: when a named layer does not exist, or every layer has `to` parts already.
        """
        for id in self.layers or []:
            if id not in lineage.stack:
                raise BadLineage(f"layer '{id}' is not in the stack at that step ({lineage})")
        few = [id for id in lineage.stack if (self.count(lineage, id) or 0) < self.to]
        chosen = few if self.layers is None else self.layers
        if not chosen:
            raise BadLineage(f"every layer has {self.to} or more then")
        return dict.fromkeys(chosen, self.to)

    def count(self, lineage: Lineage, id: str) -> int | None:
        """Return the number of parts of layer `id`, or None when it is not known."""
        heads, units = lineage.shape(id)
        return heads if self.what == "heads" else units

    def grow(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage, seed: int) -> list[ParameterOrigin]:
        """Add the new parts to the layers of `model`."""
        from pli_train.models import build as models

        layers, origins = models.stack_of(model, anatomy), []
        for id in self.targets(lineage):
            origins += self.enlarge(layers[lineage.index(id)], model, anatomy, derive(seed, id))
        models.sync_config(model, anatomy)
        return origins

    def outcome(self, lineage: Lineage) -> str:
        """Return for example `a b: clone, output zero`."""
        return f"{lineage.events[-1].facts['layer']}: {self.initializer}, output {self.output}"

    @property
    def facts(self) -> dict[str, object]:
        """Settings that the lineage records."""
        noise = {"noise": self.noise} if self.initializer == "clone-noise" else {}
        return {"to": self.to, "output": self.output, **noise, **self.policies}

    def enlarge(self, layer: nn.Module, model: nn.Module, anatomy: Anatomy, seed: int) -> list[ParameterOrigin]:
        """Add the new parts to one layer.

        Args:
            seed: seed of the random numbers.
        """
        import torch

        from pli_train.models import resize

        sizes = resize.sizes_of(layer, anatomy, model.config)
        part = resize.growable(anatomy, self.what, sizes)
        count = self.to // sizes["member"] if part.factor == "group" else self.to
        new = count - part.count
        sources = [*range(part.count), *(position % part.count for position in range(new))]
        fresh = self._drawn(layer, model, anatomy, math.ceil(new / part.count), seed)
        outputs = {f"{path}.weight" for path in anatomy.identity["zero"]}
        generator = torch.Generator().manual_seed(seed)
        origins = []
        for name, axes, old in list(resize.tensors_along(layer, anatomy, part.factor)):
            rows = rows_of(old.detach(), axes, part.factor, sizes)[sources]
            if fresh:
                drawn = [rows_of(dict(f.named_parameters())[name], axes, part.factor, sizes) for f in fresh]
                rows[part.count :] = torch.cat(drawn)[:new].to(rows)
            if name in outputs:
                rows = _output(rows, self.output, sources, part.count)
            elif self.initializer == "clone-noise" and old.dim() > 1:
                noisy = add_noise(rows[part.count :].cpu(), self.noise, generator)
                rows[part.count :] = noisy.to(rows)
            parameter = resize.put(layer, name, from_rows(rows, axes, part.factor).contiguous())
            unborn = [*range(part.count), *[NOTHING] * new]
            carry, copy = (_carrier(axes, part.factor, sizes, chosen) for chosen in (unborn, sources))
            by_row = resize.shape_by_row(old, axes, part.factor)
            origins.append(ParameterOrigin(parameter, old, True, carry, None if fresh else copy, by_row))
        resize.sync_sizes(layer, anatomy, resize.resized(sizes, part.factor, count))
        return origins

    def _drawn(self, layer: nn.Module, model: nn.Module, anatomy: Anatomy, times: int, seed: int) -> list[nn.Module]:
        """Return randomly initialized layers that the new parts are taken from; none for clones."""
        if self.initializer != "random":
            return []
        return [
            random(InsertionPoint(model, anatomy, layer, (), derive(seed, "draw", number))) for number in range(times)
        ]


def _output(rows: Tensor, output: Output, sources: Sequence[int], old: int) -> Tensor:
    """Return the output projection's columns, one row per part: (parts, …)."""
    import torch

    if output == "zero":
        rows[old:] = 0
    elif output == "split":
        shared = torch.bincount(torch.as_tensor(sources))[sources].to(rows)
        rows = rows / shared.view(-1, *[1] * (rows.dim() - 1))
    return rows


def _carrier(axes: str, factor: str, sizes: dict[str, int], sources: list[int]) -> Callable[[Tensor], Tensor]:
    from pli_train.models import resize

    return lambda moment: resize.take(moment, axes, factor, sizes, sources)
