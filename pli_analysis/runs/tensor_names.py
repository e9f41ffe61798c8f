"""Plain names of tensors: prefixes of wrappers removed, old names mapped.

A wrapper of a module adds a component to the names of its tensors. Early releases of transformers, and checkpoints
converted from TensorFlow, have other names for norms. transformers maps these old names when it loads a model, and a
training library removes its own wrappers; here both are mapped by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

INSIDE = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
}
"""Component that a wrapper adds anywhere in a name → the wrapper."""
AHEAD = {"module": "DataParallel, DDP or DeepSpeed", "base_model": "PEFT"}
"""First component that a wrapper of the whole model adds → the wrapper."""
OLD = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
"""End of a name in early releases of transformers and PyTorch → its end today."""

_INSIDE = re.compile(rf"(?<![^.])({'|'.join(INSIDE)})\.")
_OLD = re.compile(rf"(?<![^.])({'|'.join(map(re.escape, OLD))})$")
_NUMBERED = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Names:
    """The tensors of a checkpoint by name.

    Attributes:
        stored: plain name → name in the file, in the order of the file.
        changes: how plain names differ from those in the file, one line each.
        twice: two names in the file with the same plain name; None if there are none.
    """

    stored: dict[str, str]
    changes: tuple[str, ...] = ()
    twice: tuple[str, str] | None = None


@lru_cache(maxsize=64)
def plain_names(stored: tuple[str, ...], model_type: str = "") -> Names:
    """Return the plain names of tensors.

    Args:
        stored: their names in the file.
        model_type: of the config; most families name their base model by it (`bert.encoder…`).

    >>> found = plain_names(("module._orig_mod.bert.encoder.layer.0.output.LayerNorm.gamma",), "bert")
    >>> list(found.stored), found.changes[0]
    (['bert.encoder.layer.0.output.LayerNorm.weight'], "'_orig_mod.' (torch.compile) removed from tensor names")
    """
    plain, changes = list(stored), dict[str, None]()
    for number, name in enumerate(plain):
        for component in _INSIDE.findall(name):
            changes[f"'{component}.' ({INSIDE[component]}) removed from tensor names"] = None
        plain[number] = _INSIDE.sub("", name)
    while prefix := _wrapper_prefix(plain, model_type):
        wrapper = AHEAD.get(prefix, "a module that contains the model")
        changes[f"prefix '{prefix}.' ({wrapper}) removed from tensor names"] = None
        plain = [name.removeprefix(f"{prefix}.") for name in plain]
    for number, name in enumerate(plain):
        for ending in _OLD.findall(name):
            changes[f"'{ending}' in tensor names read as '{OLD[ending]}'"] = None
        plain[number] = _OLD.sub(lambda match: OLD[match[0]], name)
    locations: dict[str, str] = {}
    for name, was in zip(plain, stored, strict=True):
        if name in locations:
            return Names(dict(zip(stored, stored, strict=True)), (), (locations[name], was))
        locations[name] = was
    return Names(locations, tuple(changes))


def _wrapper_prefix(names: Sequence[str], model_type: str) -> str | None:
    """Return the first component of all layers' names if it is of a wrapper, and the model begins right after it."""
    layers = [name.split(".", 2) for name in names if _NUMBERED.search(name)]
    first = {parts[0] for parts in layers}
    if len(first) != 1:
        return None
    (component,) = first
    begins = {"model", "transformer", model_type} & {parts[1] for parts in layers}
    return component if component in AHEAD or (begins and component != model_type) else None
