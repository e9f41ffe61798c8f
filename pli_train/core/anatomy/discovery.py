"""Find the layer stack of a model without a family table. Layers only, no heads."""

from __future__ import annotations

from typing import Any

from pli_train.core.anatomy import Anatomy
from pli_train.core.errors import BadInput

Module = Any
"""A torch.nn.Module. Typed as Any because this package must not import torch."""

TASKS = {
    "ForMaskedLM": "masked-lm",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForImageClassification": "image-classification",
}
"""Ending of the names of Hugging Face's model classes → task."""


def discover(model: Module, stack: str | None = None) -> Anatomy:
    """Return the anatomy of a model whose layers are a ModuleList of equal blocks (same class, names and shapes).

    The list that is both the longest and the one with most parameters is used. Lists inside the blocks of another list
    are ignored. Fields that only a family's table can give (heads, norms, sizes) are left empty. So is the task, if it
    is not clear from the name of the model's class.

    Args:
        model: any torch.nn.Module, from Hugging Face or not.
        stack: dotted path of the list to use, if there is more than one candidate.

    Raises:
        BadInput: if there is no such list, or more than one candidate; the message names them.
    """
    candidates = _candidates(model)
    if stack is None:
        stack = _main_stack(candidates, model)
    elif stack not in candidates:
        raise BadInput(
            f"stack='{stack}': {type(model).__name__} has no list of equal blocks there{_describe(candidates)}"
        )
    config = getattr(model, "config", None)
    depth = getattr(config, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
    class_name = type(model).__name__
    return Anatomy(
        model_type=getattr(config, "model_type", None) or class_name,
        task=next((task for ending, task in TASKS.items() if class_name.endswith(ending)), ""),
        norm="",
        stack=stack.removeprefix(f"{getattr(model, 'base_model_prefix', '')}."),
        config={"depth": depth} if hasattr(config, depth) else {},
        tensors={},
    )


def _candidates(model: Module) -> dict[str, Module]:
    """Return dotted path → list of equal blocks, without those inside the blocks of another list."""
    found: dict[str, Module] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if not inside and _is_list(module) and _equal_blocks(module):
            found[path] = module
    return found


def _is_list(module: Module) -> bool:
    return any(base.__name__ == "ModuleList" for base in type(module).__mro__)


def _equal_blocks(blocks: Module) -> bool:
    shapes = [(type(b), [(name, p.shape) for name, p in b.named_parameters()]) for b in blocks]
    return bool(shapes) and bool(shapes[0][1]) and all(shape == shapes[0] for shape in shapes)


def _main_stack(candidates: dict[str, Module], model: Module) -> str:
    if not candidates:
        raise BadInput(f"{type(model).__name__} has no ModuleList of equal blocks to grow")
    size = {path: (len(blocks), sum(p.numel() for p in blocks.parameters())) for path, blocks in candidates.items()}
    # Use a list only if it is both the longest and the largest, without a tie; otherwise the user has to choose.
    first = max(size, key=lambda path: size[path])
    rivals = [path for path in size if path != first and size[path][1] >= size[first][1]]
    if rivals:
        raise BadInput(f"{type(model).__name__} has more than one list of equal blocks{_describe(candidates)}")
    return first


def _describe(candidates: dict[str, Module]) -> str:
    paths = [f"'{path}' ({len(blocks)} × {type(blocks[0]).__name__})" for path, blocks in candidates.items()]
    return f"; select one with stack=…: {', '.join(paths)}" if paths else ""
