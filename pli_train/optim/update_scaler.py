"""Scale updates after a growth event: warm up new parts, freeze old ones.

`rewarm-new` warms up the learning rate of the parts that an event added; `freeze_steps` freezes all older parts. Both
may apply to rows of a tensor (a head, FFN units), which cannot be in groups of their own. So the optimizer makes the
full update, and it is then scaled: θ ← θ_before + s · (θ_after − θ_before). For AdamW this equals a learning rate times
the scale s, weight decay included. The scale depends only on the lineage and the step, so it need not be saved. The
step counts of rows, which Adam's bias correction needs, are in the optimizer's state (`row_steps`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from pli_train.core.anatomy.axes import from_rows
from pli_train.core.anatomy.axes import rows as rows_of
from pli_train.core.learning_rate import FOUNDER, of_birth, waiting, warming
from pli_train.models import resize
from pli_train.optim import row_steps
from pli_train.optim.row_update import RowUpdate

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from pli_train.core.anatomy import Anatomy
    from pli_train.core.lineage import Birth, Layer, Lineage


def births(model: nn.Module, anatomy: Anatomy, lineage: Lineage) -> Iterator[tuple[nn.Parameter, int | Tensor]]:
    """Yield each parameter with the step its elements were added at: one number, or one per row.

    The latter is a CPU tensor that broadcasts to the parameter's shape (see `resize.shape_by_row`).
    """
    from pli_train.models.build import stack_of

    layers = stack_of(model, anatomy)
    for record, layer in zip((lineage.layers[name] for name in lineage.stack), layers, strict=True):
        rows = dict(_rows_born(layer, record, anatomy, model, lineage))
        for name, parameter in layer.named_parameters():
            yield parameter, rows.get(name, _born(record.birth))
    inside = {id(parameter) for parameter in layers.parameters()}
    yield from ((parameter, FOUNDER) for parameter in model.parameters() if id(parameter) not in inside)


def frozen(model: nn.Module, anatomy: Anatomy, lineage: Lineage, step: int) -> dict[nn.Parameter, Tensor]:
    """Return the parameters that are at least partly frozen in the update after `step` finished ones.

    Returns:
        Parameter → a bool tensor on the CPU that broadcasts to its shape, True for frozen elements.
    """
    since = waiting(lineage, step)
    if since is None:
        return {}
    older = ((parameter, torch.as_tensor(born < since)) for parameter, born in births(model, anatomy, lineage))
    return {parameter: rows for parameter, rows in older if rows.any()}


def _rows_born(
    layer: nn.Module, record: Layer, anatomy: Anatomy, model: nn.Module, lineage: Lineage
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, birth step of each row) for the tensors of a layer with heads or units newer than the layer."""
    heads = [_born(birth) for birth in record.heads.values()]
    units: list[int] = []
    for number, count in record.widths.items():
        born = lineage.events[number - 1].step if number else FOUNDER
        units += [born] * (count - len(units))
    for what, steps in (("heads", heads), ("units", units)):
        if set(steps) <= {_born(record.birth)}:
            continue
        sizes = resize.sizes_of(layer, anatomy, model.config)
        part = resize.growable(anatomy, what, sizes)
        if part.factor == "group":
            steps = steps[:: sizes["member"]]
        for name, axes, parameter in resize.tensors_along(layer, anatomy, part.factor):
            empty = torch.zeros(resize.shape_by_row(parameter, axes, part.factor), dtype=torch.int64)
            rows = rows_of(empty, axes, part.factor, sizes)
            marked = rows + torch.as_tensor(steps).view(-1, *[1] * (rows.dim() - 1))
            yield name, from_rows(marked, axes, part.factor)


def _born(birth: Birth) -> int:
    return FOUNDER if birth.event is None else birth.step


class UpdateScaler:
    """Scale the updates of a model between two growth events.

        scaler.hold(step)                        # before the backward pass
        updates = scaler.before(optimizer, step)
        optimizer.step()
        scaler.after(updates)                    # before the learning rate changes

    Frozen elements have no gradient, so norms and clipping exclude them, and updates do not change their weights,
    moments and step counts. A parameter that is entirely frozen does not require a gradient. If only some rows are
    frozen, a hook sets their gradient to zero in the backward pass, before it is measured or clipped; changes that the
    optimizer still makes to these rows (Adam's moments decay even if the gradient is zero) are undone after its step.
    This works for every optimizer whose state has the parameter's shape.

    Args:
        model, anatomy, lineage: the current ones; make a new scaler after each event.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, lineage: Lineage) -> None:
        self._lineage = lineage
        ever = any(e.facts.get("freeze_steps") or e.facts.get("learning_rate") == "rewarm-new" for e in lineage.events)
        all_births = births(model, anatomy, lineage) if ever else ()
        self._births = [(parameter, born) for parameter, born in all_births if parameter.requires_grad]
        self._since: int | None = None
        self._held: list[nn.Parameter] = []
        self._hooks: list[Any] = []

    def hold(self, step: int) -> bool:
        """Freeze what is frozen at this step, and unfreeze the rest. Return whether anything changed."""
        since = waiting(self._lineage, step)
        if since == self._since:
            return False
        self.release()
        self._since = since
        if since is not None:
            for parameter, born in self._births:
                self._freeze(parameter, torch.as_tensor(born < since))
        return True

    def _freeze(self, parameter: nn.Parameter, rows: Tensor) -> None:
        # With a gradient left from before, the optimizer would still decay the moments of frozen elements.
        if rows.all():
            parameter.requires_grad_(False)
            parameter.grad = None
            self._held.append(parameter)
        elif rows.any():
            rows = rows.to(parameter.device)
            self._hooks.append(parameter.register_hook(lambda gradient: gradient.masked_fill(rows, 0)))
            if parameter.grad is not None:
                parameter.grad.masked_fill_(rows, 0)

    def release(self) -> None:
        """Unfreeze everything that this object froze."""
        for parameter in self._held:
            parameter.requires_grad_(True)
        for hook in self._hooks:
            hook.remove()
        self._since, self._held, self._hooks = None, [], []

    def before(self, optimizer: Optimizer, step: int) -> list[RowUpdate]:
        """Save the parameters whose rows need a correction after the optimizer's step."""
        update_scales = self._update_scales(step)
        return [
            RowUpdate(optimizer, group, parameter, update_scales.get(parameter, 1.0))
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
            and (parameter in update_scales or row_steps.ROWS in optimizer.state.get(parameter, {}))
        ]

    def after(self, updates: list[RowUpdate]) -> None:
        """Correct the rows of these parameters."""
        for update in updates:
            update.finish()

    def of_layer(self, id: str, step: int) -> float:
        """Return the update scale of a layer's original parts in the update after `step` finished ones."""
        return of_birth(_born(self._lineage.layers[id].birth), self._lineage, step)

    def _update_scales(self, step: int) -> dict[nn.Parameter, float | Tensor]:
        """Return the update scale of each parameter that is scaled or has rows with different scales."""
        if waiting(self._lineage, step) is None and not warming(self._lineage, step):
            return {}
        scales = {parameter: self._update_scale(born, step) for parameter, born in self._births}
        return {p: scale for p, scale in scales.items() if isinstance(scale, torch.Tensor) or scale < 1}

    def _update_scale(self, born: int | Tensor, step: int) -> float | Tensor:
        if isinstance(born, int):
            return of_birth(born, self._lineage, step)
        known = {each: of_birth(each, self._lineage, step) for each in born.unique().tolist()}
        if len(set(known.values())) == 1:
            return next(iter(known.values()))
        scales = torch.ones(born.shape)
        for each, scale in known.items():
            scales[born == each] = scale
        return scales
