"""Load a checkpoint's model and collect layer outputs.

The config (known keys only) and the tensors are read by the checked readers of `runs`; transformers opens no file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis.inference import devices, model_template
from pli_analysis.runs.checkpoint import require_parts
from pli_train.core import safe_model
from pli_train.core.cli.console import say
from pli_train.core.errors import BadInput, did_you_mean, last_line, some
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from pli_analysis.runs.checkpoint import Checkpoint
    from pli_train.core.anatomy import Anatomy

_log = logging.getLogger(__name__)
TEXT_TASKS = ("causal-lm", "masked-lm")
AT_ONCE = 8
"""Blocks in one forward pass."""


def model_of(checkpoint: Checkpoint, head: bool = True) -> PreTrainedModel:
    """Load the model of a checkpoint in float32, in eval mode, onto the device of `pli_analysis.inference.devices`.

    Args:
        head: whether to include the language-model head; the base model alone exists for classifiers and encoders too.

    Raises:
        BadInput: if the model does not read text, config and weights do not match, or a required head is missing.
    """
    import torch
    import transformers

    require_outputs(checkpoint)
    task, anatomy = checkpoint.anatomy.task, checkpoint.anatomy
    tensors = {
        name: torch.from_numpy(array.astype(np.float32)) for name, array in checkpoint.tensors(list(checkpoint.files))
    }
    config = _config(checkpoint)
    transformers.logging.disable_progress_bar()  # the tensors are already in memory
    try:
        if getattr(config, anatomy.config["depth"]) != len(checkpoint.lineage.stack):
            raise ValueError("its config has another number of layers than its lineage")
        outline = safe_model.outline(config, safe_model.AUTO_CLASS[task] if head else "AutoModel", tensors)
        prefix = f"{outline.base_model_prefix}."
        with _quiet():  # missing and unused tensors are reported below
            model, report = model_template.filled(outline, config, tensors)
    except Exception as error:  # a library may raise anything for invalid values
        raise BadInput(f"{checkpoint.path}: its config and weights make no model ({last_line(error)})") from None
    if head:  # a base model does not use the weights of any head
        _report_unused(*sorted(report["unexpected_keys"]))
    # A pooler comes after the layers, and does not affect their outputs.
    missing = sorted(name for name in report["missing_keys"] if head or not name.startswith("pooler."))
    if missing and head and not any(name.startswith(prefix) for name in missing):
        problem = "it has no head that predicts tokens, which is needed for its loss"
        raise BadInput(f"{checkpoint.path}: {problem} (its weights lack {some(missing)})")
    if missing:
        raise BadInput(f"{checkpoint.path}: its weights lack {some(missing)}")
    device = devices.device()
    _log.debug("%s: model of %d tensors on %s", checkpoint.path, len(tensors), device)
    return model.eval().to(device)


@cache
def _report_unused(*names: str) -> None:
    """Print once, not for each checkpoint, which tensors the model does not use."""
    if names:
        say(f"tensors that the model does not use are ignored: {some(names)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Let transformers log only errors."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        theirs.set_verbosity(level)


def require_outputs(checkpoint: Checkpoint) -> None:
    """Raise BadInput if only weights of this model family can be measured.

    Such a family has no table, a table without a task, or does not read text.
    """
    task, family = checkpoint.anatomy.task, checkpoint.anatomy.model_type
    if not task:
        raise BadInput(f"{checkpoint.path}: of a {family} only weights are measured, not outputs or losses")
    if task not in TEXT_TASKS:
        raise BadInput(f"{checkpoint.path}: a {family} does not read text")


def stack_of(model: PreTrainedModel, anatomy: Anatomy) -> Any:
    """Return the list of a model's layers, bottom to top."""
    return getattr(model, model.base_model_prefix, model).get_submodule(anatomy.stack)


def path_of_stack(model: PreTrainedModel, anatomy: Anatomy) -> str:
    """Return the dotted path of the list of layers in the whole model."""
    layers = stack_of(model, anatomy)
    return next(name for name, module in model.named_modules() if module is layers)


def hidden_of(output: Any) -> Tensor:
    """Return the hidden states in what a layer returns: a tensor, or a tuple that starts with it."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def outputs_of(checkpoint: Checkpoint, of: str, tokens: Tensor, kept: Tensor) -> list[np.ndarray]:
    """Collect the outputs of each layer of the stack, bottom to top, in float32.

    Args:
        of: `layers`: hidden states after each layer; `states`: those before the first layer, then those after each;
            `heads`: outputs of heads before the attention output projection; `ffn`: outputs of FFNs, which are added to
            the hidden states.
        tokens: (blocks, block_size).
        kept: (blocks, block_size) bool: tokens whose outputs are returned.

    Returns:
        For each layer an array (tokens kept, width), or for heads (tokens kept, heads, head width). Heads that only pad
        a layer come last.
    """
    import torch

    if of == "heads":
        require_parts(checkpoint, "head")
    model, anatomy = model_of(checkpoint, head=False), checkpoint.anatomy
    stack = stack_of(model, anatomy)
    wanted = kept.to(model.device).split(AT_ONCE)
    collected: list[list[Tensor]] = []
    hooks = []

    def keeper() -> Callable[[Any], None]:
        """Return a function that keeps the values of the next batch: hooks get the batches in order."""
        batches: list[Tensor] = []
        collected.append(batches)

        def keep(values: Any) -> None:
            values = hidden_of(values)
            batches.append(values[wanted[len(batches)]])

        return keep

    if of == "states":
        keep = keeper()
        hooks.append(
            stack[0].register_forward_pre_hook(
                lambda _, inputs, named, keep=keep: keep(inputs or named["hidden_states"]), with_kwargs=True
            )
        )
    for layer in stack:
        keep = keeper()
        if of in ("layers", "states"):
            hooks.append(layer.register_forward_hook(lambda _, inputs, output, keep=keep: keep(output)))
            continue
        out_of_attention, out_of_ffn = (layer.get_submodule(name) for name in anatomy.identity["zero"])
        if of == "heads":
            hooks.append(out_of_attention.register_forward_pre_hook(lambda _, inputs, keep=keep: keep(inputs)))
        else:
            hooks.append(out_of_ffn.register_forward_hook(lambda _, inputs, output, keep=keep: keep(output)))
    with torch.inference_mode():
        for inputs in tokens.to(model.device).split(AT_ONCE):
            model(input_ids=inputs)
    outputs = [torch.cat(segments).cpu().numpy() for segments in collected]
    if of == "heads":
        count = anatomy.sizes(checkpoint.config)["head"]
        outputs = [values.reshape(len(values), count, -1) for values in outputs]
    return outputs


def _config(checkpoint: Checkpoint) -> PretrainedConfig:
    """Return the config. Raises BadInput for a key that its family does not declare."""
    fields = {key: value for key, value in checkpoint.config.items() if key != "model_type"}
    family = checkpoint.anatomy.model_type
    known = safe_model.declared(family) | {*checkpoint.anatomy.config.values(), *checkpoint.anatomy.heeded}
    path = checkpoint.path / run_folder.CONFIG
    if checkpoint.known is not None:  # other releases and other tools may write further keys
        fields = {key: value for key, value in fields.items() if key in known}
        fields = _as_deep(fields, checkpoint.anatomy.config["depth"], len(checkpoint.lineage.stack))
    if strange := [key for key in fields if key not in known]:
        raise BadInput(f"{path}: {strange[0]!r} is not a key of a {family}'s config{did_you_mean(strange[0], known)}")
    return safe_model.config_of(family, fields, path)


def _as_deep(fields: dict[str, Any], depth: str, layers: int) -> dict[str, Any]:
    """Return the fields of a config with the number of layers that the weights have."""
    if fields.get(depth) == layers:
        return fields
    types = fields.get("layer_types")
    shortened = {"layer_types": types[:layers]} if isinstance(types, list) else {}
    return fields | shortened | {depth: layers}
