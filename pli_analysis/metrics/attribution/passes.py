"""What the modules of a model compute in one forward pass: those that write to the residual stream, or normalize it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from pli_analysis.inference import checkpoint_model
from pli_analysis.metrics.ablation.interventions import attention_output, ffn_output, removed

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from pli_train.core.anatomy import Anatomy


class Pass(NamedTuple):
    """One use of a module.

    Attributes:
        module: the module.
        input, output: (tokens, width); widths may differ.
    """

    module: nn.Module
    input: Tensor
    output: Tensor


class LayerPasses(NamedTuple):
    """Passes of the modules of a layer that write to the residual stream, or normalize it."""

    attention: Pass
    ffn: Pass
    first_norm: Pass | None
    last_norm: Pass | None


class Passes(NamedTuple):
    """What one forward pass computed at the predicted tokens.

    Attributes:
        input, output: of the stack, (tokens, width).
        layers: from the bottom to the top.
        after: modules after the stack, in the order of their use.
    """

    input: Tensor
    output: Tensor
    layers: list[LayerPasses]
    after: list[Pass]


def passes_of(model: PreTrainedModel, anatomy: Anatomy, tokens: Tensor, where: Tensor) -> Passes:
    """Run a model on one block and return what its modules computed at some tokens.

    Args:
        tokens: (1, block_size).
        where: (tokens,) int: positions in the block.
    """
    stack = checkpoint_model.stack_of(model, anatomy)
    within = set(stack.modules())
    outside = [module for module in model.modules() if module not in within and not list(module.children())]
    norms = [anatomy.identity.get(name) if anatomy.norm == "post" else None for name in ("first_norm", "last_norm")]
    order: list[Pass] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        read, written = inputs[0] if inputs else named.get("hidden_states"), checkpoint_model.hidden_of(output)
        if read is None or not read.is_floating_point():
            return
        flat = [values.reshape(-1, values.shape[-1]) for values in (read, written)]  # some FFNs join blocks and tokens
        if all(len(values) == tokens.numel() for values in flat):
            order.append(Pass(module, *(values[where] for values in flat)))

    with ExitStack() as hooks:
        for module in [*within, *outside]:
            hooks.enter_context(removed(module.register_forward_hook(keep, with_kwargs=True)))
        model(input_ids=tokens)
    of = {used.module: used for used in order}
    layers = [
        LayerPasses(
            of[attention_output(layer, anatomy)],
            of[ffn_output(layer, anatomy)],
            *(None if name is None else of[layer.get_submodule(name)] for name in norms),
        )
        for layer in stack
    ]
    last = [used.module for used in order].index(stack[-1])
    return Passes(of[stack[0]].input, of[stack[-1]].output, layers, order[last + 1 :])
