"""Load a checkpoint's model and collect layer outputs.

The config, of known keys, and the tensors come from the careful readers of `run.py`; transformers opens no file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

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
"""Blocks that go through a model together."""


def model_of(checkpoint: Checkpoint, head: bool = True) -> PreTrainedModel:
    """The model in float32 on the CPU, without dropout.

    Args:
        head: whether it predicts tokens; without it is the base model, which classifiers and encoders have too.

    Raises:
        BadInput: when it does not learn from text, config and weights are not of one model, or a head is missing.
    """
    import torch
    import transformers

    require_outputs(checkpoint)
    task, anatomy = checkpoint.anatomy.task, checkpoint.anatomy
    if task not in TEXT_TASKS:
        raise BadInput(f"{checkpoint.path}: a {anatomy.model_type} does not read text")
    tensors = {
        name: torch.from_numpy(array.astype(np.float32)) for name, array in checkpoint.tensors(list(checkpoint.files))
    }
    config = _config(checkpoint)
    transformers.logging.disable_progress_bar()  # the tensors are in memory already
    try:
        if getattr(config, anatomy.config["depth"]) != len(checkpoint.lineage.stack):
            raise ValueError("another number of layers than its lineage has")
        outline = safe_model.outline(config, safe_model.AUTO_CLASS[task] if head else "AutoModel", tensors)
        prefix = f"{outline.base_model_prefix}."
        with _quiet():  # what it would report is told below, as far as it matters
            model, found = safe_model.fill(outline, config, tensors, attn_implementation="eager")
    except Exception as error:  # whatever a library makes of hostile values
        raise BadInput(f"{checkpoint.path}: its config and weights make no model ({last_line(error)})") from None
    if head:  # without it all that stands above the base model is left out
        _report_unused(*sorted(found["unexpected_keys"]))
    # A pooler reads what the layers put out, and says nothing of them.
    missing = sorted(name for name in found["missing_keys"] if head or not name.startswith("pooler."))
    if missing and head and not any(name.startswith(prefix) for name in missing):
        message = "it has no head that predicts tokens, and this needs its loss"
        raise BadInput(f"{checkpoint.path}: {message} (its weights lack {some(missing)})")
    if missing:
        raise BadInput(f"{checkpoint.path}: its weights lack {some(missing)}")
    _log.debug("%s: model of %d tensors", checkpoint.path, len(tensors))
    return model.eval()


@cache
def _report_unused(*names: str) -> None:
    """Say once, and not for every checkpoint, which tensors the model has no place for."""
    if names:
        say(f"tensors that the model has no place for are left out: {some(names)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Have transformers log errors alone."""
    from transformers.utils import logging as theirs

    level = theirs.get_verbosity()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        theirs.set_verbosity(level)


def require_outputs(checkpoint: Checkpoint) -> None:
    """Raise BadInput when only the weights of a model are measured: without a table, or with one that says so."""
    if not checkpoint.anatomy.task:
        message = f"of a {checkpoint.anatomy.model_type} only weights are measured here, no outputs and no losses"
        raise BadInput(f"{checkpoint.path}: {message}")


def stack_of(model: PreTrainedModel, anatomy: Anatomy) -> Any:
    """The list of a model's layers, bottom to top."""
    return getattr(model, model.base_model_prefix, model).get_submodule(anatomy.stack)


def outputs_of(checkpoint: Checkpoint, of: str, tokens: Tensor, kept: Tensor) -> list[np.ndarray]:
    """What each layer of the stack puts out, bottom to top, in float32.

    Args:
        of: `layers`: the hidden states after each; `heads`: what each head hands to the projection out of attention;
            `ffn`: what each FFN adds to the hidden states, its dropout being off.
        tokens: (blocks, block_size).
        kept: the same shape, bool: the tokens that are wanted.

    Returns:
        For each layer (tokens kept, width), for heads (tokens kept, heads, width of a head). Heads that only pad a
        layer come last.
    """
    import torch

    if of == "heads":
        require_parts(checkpoint, "head")
    model, anatomy = model_of(checkpoint, head=False), checkpoint.anatomy
    stack = stack_of(model, anatomy)
    found: list[list[Tensor]] = [[] for _ in stack]
    wanted = kept.split(AT_ONCE)
    hooks = []
    for position, layer in enumerate(stack):
        # Each hook sees the batches in order, so that the number of those it has is the number of the next.
        def keep(values: Any, position: int = position) -> None:
            values = values[0] if isinstance(values, tuple) else values
            found[position].append(values[wanted[len(found[position])].to(values.device)])

        if of == "layers":
            hooks.append(layer.register_forward_hook(lambda _, inputs, output, keep=keep: keep(output)))
            continue
        out_of_attention, out_of_ffn = (layer.get_submodule(name) for name in anatomy.identity["zero"])
        if of == "heads":
            hooks.append(out_of_attention.register_forward_pre_hook(lambda _, inputs, keep=keep: keep(inputs)))
        else:
            hooks.append(out_of_ffn.register_forward_hook(lambda _, inputs, output, keep=keep: keep(output)))
    with torch.inference_mode():
        for inputs in tokens.split(AT_ONCE):
            model(input_ids=inputs)
    outputs = [torch.cat(segments).numpy() for segments in found]
    if of == "heads":
        count = anatomy.sizes(checkpoint.config)["head"]
        outputs = [values.reshape(len(values), count, -1) for values in outputs]
    return outputs


def _config(checkpoint: Checkpoint) -> PretrainedConfig:
    """The config, of keys that its family declares. Raises BadInput naming another."""
    fields = {key: value for key, value in checkpoint.config.items() if key != "model_type"}
    family = checkpoint.anatomy.model_type
    known = safe_model.declared(family) | {*checkpoint.anatomy.config.values(), *checkpoint.anatomy.heeded}
    path = checkpoint.path / run_folder.CONFIG
    if checkpoint.known is not None:  # older and newer releases, and other people's tools, write keys of their own
        fields = {key: value for key, value in fields.items() if key in known}
        fields = _as_deep(fields, checkpoint.anatomy.config["depth"], len(checkpoint.lineage.stack))
    if strange := [key for key in fields if key not in known]:
        raise BadInput(f"{path}: {strange[0]!r} is not a key of a {family}'s config{did_you_mean(strange[0], known)}")
    return safe_model.config_of(family, fields, path)


def _as_deep(fields: dict[str, Any], depth: str, layers: int) -> dict[str, Any]:
    """The fields of a config when they tell of as many layers as the weights have."""
    if fields.get(depth) == layers:
        return fields
    types = fields.get("layer_types")
    message = {"layer_types": types[:layers]} if isinstance(types, list) else {}
    return fields | message | {depth: layers}
