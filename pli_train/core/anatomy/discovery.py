"""Find the layer stack of a model without a family table. Layers only, no heads."""

from __future__ import annotations

from typing import Any

from pli_train.core.anatomy import Anatomy
from pli_train.core.errors import BadInput

Module = Any
"""A torch.nn.Module. Anatomy stands without torch, in its imports too, so a module is known by what it offers."""

TASKS = {
    "ForMaskedLM": "masked-lm",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForImageClassification": "image-classification",
}
"""How Hugging Face ends the name of a model class for a task."""


def discover(model: Module, stack: str | None = None) -> Anatomy:
    """The anatomy of any model whose layers are a ModuleList of equal blocks: one class, one set of names and shapes.

    Taken is the list that is both the longest and the one with most parameters; lists inside another's blocks do not
    count. What the table of a family says and a shape cannot (heads, norms, sizes) is left empty, and so is the task
    where the model's class does not tell it.

    Args:
        model: any torch.nn.Module, Hugging Face's or not.
        stack: dotted path of the list to take, where more than one could be meant.

    Raises:
        BadInput: when there is no such list, or more than one could be meant: it names them.
    """
    found = _candidates(model)
    if stack is None:
        stack = _the_one(found, model)
    elif stack not in found:
        raise BadInput(f"stack='{stack}': {type(model).__name__} has no list of equal blocks there{_describe(found)}")
    config = getattr(model, "config", None)
    depth = getattr(config, "attribute_map", {}).get("num_hidden_layers", "num_hidden_layers")
    named = type(model).__name__
    return Anatomy(
        model_type=getattr(config, "model_type", None) or named,
        task=next((task for ending, task in TASKS.items() if named.endswith(ending)), ""),
        norm="",
        stack=stack.removeprefix(f"{getattr(model, 'base_model_prefix', '')}."),
        config={"depth": depth} if hasattr(config, depth) else {},
        tensors={},
    )


def _candidates(model: Module) -> dict[str, Module]:
    """Dotted path → list of equal blocks, those inside another one's blocks left out."""
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


def _the_one(found: dict[str, Module], model: Module) -> str:
    if not found:
        raise BadInput(f"{type(model).__name__} has no ModuleList of equal blocks: there is no stack to grow")
    size = {path: (len(blocks), sum(p.numel() for p in blocks.parameters())) for path, blocks in found.items()}
    # Longest and largest at once, and nobody's equal: anything less is for the user to decide.
    first = max(size, key=lambda path: size[path])
    rivals = [path for path in size if path != first and size[path][1] >= size[first][1]]
    if rivals:
        raise BadInput(f"{type(model).__name__} has more than one list of equal blocks{_describe(found)}")
    return first


def _describe(found: dict[str, Module]) -> str:
    paths = [f"'{path}' ({len(blocks)} × {type(blocks[0]).__name__})" for path, blocks in found.items()]
    return f"; pick one with stack=…: {', '.join(paths)}" if paths else ""
