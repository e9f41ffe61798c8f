"""How fast each part may move after an event: newborn parts that warm up alone, and old ones that wait.

`rewarm-new` lets the learning rate of what was born at an event climb; `freeze_steps` holds everything still that was
there before. Both may speak of rows inside a tensor (a head, FFN units), which an optimizer's groups cannot: so an
update is done in full and then taken back in part, θ ← θ_before + pace · (θ_after − θ_before). For AdamW that is the
learning rate times `pace`. Pace is a function of the lineage and the step alone: nothing has to be saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from pli_train import layout
from pli_train.learning_rate import FOUNDER, of_birth, waiting, warming

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pli_train.anatomy import Anatomy
    from pli_train.lineage import Birth, Layer, Lineage


def births(model: nn.Module, anatomy: Anatomy, lineage: Lineage) -> Iterator[tuple[nn.Parameter, int | Tensor]]:
    """Each parameter with the step its elements were born at: one number, or a tensor of the parameter's shape."""
    from pli_train.model import stack_of

    layers = stack_of(model, anatomy)
    for told, layer in zip((lineage.layers[name] for name in lineage.stack), layers, strict=True):
        rows = dict(_rows_born(layer, told, anatomy, model, lineage))
        for name, parameter in layer.named_parameters():
            yield parameter, rows.get(name, _born(told.birth))
    inside = {id(parameter) for parameter in layers.parameters()}
    yield from ((parameter, FOUNDER) for parameter in model.parameters() if id(parameter) not in inside)


def _rows_born(
    layer: nn.Module, told: Layer, anatomy: Anatomy, model: nn.Module, lineage: Lineage
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a layer some of whose heads or units are younger than it: (name, birth step of each element)."""
    heads = [_born(birth) for birth in told.heads.values()]
    units: list[int] = []
    for number, count in told.widths.items():
        born = lineage.events[number - 1].step if number else FOUNDER
        units += [born] * (count - len(units))
    for what, steps in (("heads", heads), ("units", units)):
        if set(steps) <= {_born(told.birth)}:
            continue
        sizes = layout.sizes_of(layer, anatomy, model.config)
        part = layout.growable(anatomy, what, sizes)
        if part.factor == "group":
            steps = steps[:: sizes["member"]]
        for name, axes, parameter in layout.tensors_along(layer, anatomy, part.factor):
            rows = layout.rows(torch.zeros_like(parameter, dtype=torch.int64), axes, part.factor, sizes)
            marked = rows + torch.as_tensor(steps, device=rows.device).view(-1, *[1] * (rows.dim() - 1))
            yield name, layout.from_rows(marked, axes, part.factor)


def _born(birth: Birth) -> int:
    return FOUNDER if birth.event is None else birth.step


builtin_id = id


class Paces:
    """The paces of a model between two growth events, for a loop that updates it.

    Args:
        model, anatomy, lineage: as they are now; after an event make a new one.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage) -> None:
        self._lineage = lineage
        ever = any(e.facts.get("freeze_steps") or e.facts.get("learning_rate") == "rewarm-new" for e in lineage.events)
        all_births = births(model, anatomy, lineage) if ever else ()
        self._births = [(parameter, born) for parameter, born in all_births if parameter.requires_grad]
        self._held: list[nn.Parameter] = []

    def hold(self, step: int) -> bool:
        """Freeze whole parameters that wait at this step, and release those that no longer do. True when that changed.

        A frozen one gets no gradient, so that its moments stay as they are.
        """
        held = [p for p, born in self._births if isinstance(born, int) and of_birth(born, self._lineage, step) == 0]
        if [id(p) for p in held] == [id(p) for p in self._held]:
            return False
        self.release()
        self._held = held
        for parameter in self._held:
            parameter.requires_grad_(False)
        return True

    def release(self) -> None:
        """Let everything learn that this object froze."""
        for parameter in self._held:
            parameter.requires_grad_(True)
        self._held = []

    def before(self, step: int) -> list[tuple[nn.Parameter, Tensor, float | Tensor]]:
        """What `after` needs to take an update back in part: parameter, its value now, its pace."""
        if waiting(self._lineage, step) is None and not warming(self._lineage, step):
            return []
        kept = []
        for parameter, born in self._births:
            pace = self._pace(born, step)
            if parameter.grad is not None and (isinstance(pace, torch.Tensor) or pace < 1):
                kept.append((parameter, parameter.detach().clone(), pace))
        return kept

    @torch.no_grad()
    def after(self, kept: list[tuple[nn.Parameter, Tensor, float | Tensor]]) -> None:
        """Take the update back where pace is below 1."""
        for parameter, old, pace in kept:
            parameter.copy_(old + pace * (parameter - old))

    def of_layer(self, id: str, step: int) -> float:
        """The pace of what a layer was born with, in the update after `step` finished ones."""
        return of_birth(_born(self._lineage.layers[id].birth), self._lineage, step)

    def _pace(self, born: int | Tensor, step: int) -> float | Tensor:
        if isinstance(born, int):
            return of_birth(born, self._lineage, step)
        paces = torch.ones(born.shape, device=born.device)
        for each in born.unique().tolist():
            paces[born == each] = of_birth(each, self._lineage, step)
        return paces
