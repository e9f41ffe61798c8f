"""Shape of the model at step 0; growth schedules are checked against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage

if TYPE_CHECKING:
    from torch import nn

    from pli_train.core.anatomy import Anatomy


@dataclass(frozen=True)
class InitialShape:
    """Shape of the model at step 0. Before there is a model, only the depth is known.

    Attributes:
        depth: number of layers.
        heads: attention heads of each layer; 0 when not known, then numbers of heads are not checked.
        units: units of each FFN; None when not known.
        member: number of query heads that share one K/V head.
        slots: largest number of heads of a layer; None for no limit.
        identity: whether layers of this family can be initialized as the identity.
        first_index: lowest index at which a layer can be inserted.
        block_size: tokens per block.
        cuttable: whether blocks can be cut into shorter sequences (text can, images cannot).
    """

    depth: int
    heads: int = 0
    units: int | None = None
    member: int = 1
    slots: int | None = None
    identity: bool = True
    first_index: int = 0
    block_size: int | None = None
    cuttable: bool = True

    def lineage(self, initializer: str = "random") -> Lineage:
        """Return the lineage at step 0."""
        return Lineage.begin(self.depth, self.heads, initializer, self.units)


def start_of(
    model: nn.Module, anatomy: Anatomy, depth: int, initial_heads: int | None, block_size: int | None
) -> InitialShape:
    """Return the shape at step 0 of a run of this model.

    Args:
        model: with at least one layer, before heads are removed; may be on the meta device.
        anatomy: parameter table of its family.
        depth: number of layers at step 0.
        initial_heads: heads of each layer at step 0; None for all heads of the model's config.
        block_size: tokens per block.

    Raises:
        BadInput: when the model cannot have `initial_heads` heads.
    """
    from pli_train.models import resize
    from pli_train.models.build import stack_of

    sizes = resize.sizes_of(stack_of(model, anatomy)[0], anatomy, getattr(model, "config", None))
    if initial_heads and not sizes["head"]:
        raise BadInput(f"model.initial_heads: the parameter table of '{anatomy.model_type}' has no heads")
    if initial_heads and (initial_heads > sizes["head"] or initial_heads % sizes["member"]):
        groups = f", in K/V groups of {sizes['member']}" if sizes["member"] > 1 else ""
        raise BadInput(f"model.initial_heads: {initial_heads} is not possible: the config has {sizes['head']}{groups}")
    return InitialShape(
        depth=depth,
        heads=initial_heads or sizes["head"],
        units=sizes.get("unit"),
        member=sizes["member"],
        slots=None if "head_dim" in anatomy.config else sizes["head"],
        identity=bool(anatomy.identity),
        first_index=anatomy.first_index,
        block_size=block_size,
        cuttable=anatomy.task != "image-classification",
    )
