"""The shape of the model at step 0, against which a schedule is checked."""

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
    """What a run begins with; before there is a model, only the depth is known.

    Attributes:
        depth: layers.
        heads: of each layer; 0 where not known, then nothing is said against a number of heads.
        units: of each FFN; None where not known.
        member: query heads that share one K/V head.
        slots: heads that fit a layer, None for any number.
        identity: whether the family's table says how a layer can start as the identity.
        first_index: the lowest index that a layer can be inserted at.
        block_size: tokens in a block.
        cuttable: whether blocks can be cut into pieces: text can, images cannot.
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
        """The lineage at step 0."""
        return Lineage.begin(self.depth, self.heads, initializer, self.units)


def start_of(
    model: nn.Module, anatomy: Anatomy, depth: int, initial_heads: int | None, block_size: int | None
) -> InitialShape:
    """What a run of this model begins with.

    Args:
        model: with at least one layer, before any is slimmed; it may live on the meta device.
        depth: layers at step 0.
        initial_heads: heads of each layer at step 0; None for all that the config has.
        block_size: tokens in a block.

    Raises:
        BadInput: when the heads do not fit the model.
    """
    from pli_train.models import resize
    from pli_train.models.build import stack_of

    sizes = resize.sizes_of(stack_of(model, anatomy)[0], anatomy, getattr(model, "config", None))
    if initial_heads and not sizes["head"]:
        raise BadInput(f"model.initial_heads: the table of '{anatomy.model_type}' names no heads")
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
