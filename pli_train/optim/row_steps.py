"""Adam's step count for each row of a tensor.

PyTorch's Adam counts the updates of a parameter in one number, `step`. A row that was born inside an older tensor, or
that was frozen for a while, has had fewer updates. Corrected for bias by the tensor's number, the first update of a
newborn row would be up to (1 − β1) / √(1 − β2) learning rates long, 3.2 with the usual betas. As a separate parameter
its first update is at most one learning rate long (Kingma and Ba 2015, arXiv:1412.6980, section 2.1).

So the optimizer's state of such a tensor also holds the count of each row, and after each update the rows whose count
is not the tensor's are moved to where their own bias correction puts them. Moments need no correction. The counts are
kept and not computed from the lineage, because an update may be skipped (by a GradScaler, say), and an optimizer may
be older than the run. A tensor without counts of its own has had the same number of updates in all rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Adam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

ROWS = "rows"
"""The key in a parameter's state under which its counts are kept, as `{"step": counts}`.

The inner name matters: `Optimizer.load_state_dict` casts every tensor that is not called `step` to the dtype of the
parameter, and bfloat16 cannot count beyond 256.
"""


def counted(optimizer: Optimizer) -> bool:
    """Whether rows can have counts of their own: under Adam, AdamW and what is derived from them."""
    return isinstance(optimizer, Adam)


def of(state: dict[str, Any], shape: Sequence[int], device: torch.device) -> Tensor:
    """The number of updates that each row has had, float32.

    Args:
        state: the optimizer's, of one parameter; empty before its first update.
        shape: of the result: as the parameter's, with 1 for each axis but that of the rows.
        device: of the parameter.
    """
    if ROWS in state:
        # `load_state_dict` leaves them where a checkpoint was loaded to, as it does with Adam's own unfused `step`.
        return state[ROWS]["step"].to(device)
    step = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32, device=device)
    return step.expand(*shape).clone()


def keep(state: dict[str, Any], counts: Tensor) -> None:
    """Put counts into a parameter's state, unless they are all the tensor's own."""
    state.pop(ROWS, None)
    if bool((counts != torch.as_tensor(state["step"], device=counts.device)).any()):
        state[ROWS] = {"step": counts}


@torch.no_grad()
def correct(parameter: nn.Parameter, state: dict[str, Any], group: dict[str, Any], updates: Tensor) -> None:
    """Give an update that Adam has just made the bias correction of each row's own count.

    Weight decay has no part in it, so that this is right for Adam and AdamW alike.

    Rows whose count is the tensor's keep their values.

    Args:
        parameter: after the update.
        state: after the update, with the rows' counts.
        group: the parameter's, with `lr`, `betas` and `eps` of the update.
        updates: how many updates were made, a scalar: 1, or 0 where the optimizer skipped it.
    """
    counts, step = state[ROWS]["step"], torch.as_tensor(state["step"], device=parameter.device)
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    first = state["exp_avg"].to(dtype)
    root = state.get("max_exp_avg_sq", state["exp_avg_sq"]).to(dtype).sqrt()
    excess = first / _denominator(root, group, step)
    excess.addcdiv_(first, _denominator(root, group, counts), value=-1)
    excess *= group["lr"] * updates * (counts != step)
    parameter.add_(excess)


def _denominator(root: Tensor, group: dict[str, Any], count: Tensor) -> Tensor:
    """What Adam divides the first moment by, for a learning rate of 1, after `count` updates.

    Args:
        root: the square root of the second moment.
    """
    bias1, bias2 = (_bias(beta, count.to(root.dtype)) for beta in group["betas"])
    return torch.addcmul(group["eps"] * bias1, root, bias1 / bias2.sqrt())


def _bias(beta: float, count: Tensor) -> Tensor:
    """1 − βⁿ, without cancellation. A row that has had no update counts as one that has had its first."""
    return -torch.expm1(count.clamp(min=1) * (math.log(beta) if beta else -math.inf))
