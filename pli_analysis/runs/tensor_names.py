"""Plain names of tensors: prefixes of wrappers removed, old names mapped.

Wrappers of a module add a component to the names of its tensors; early releases of transformers, and checkpoints that
were converted from TensorFlow, have other names for norms. transformers maps the latter when it loads a model, and the
training tool takes the former away when it loads its own checkpoint; here both are mapped by name.
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
"""Component that a wrapper adds wherever it stands → whose it is."""
AHEAD = {"module": "DataParallel, DDP or DeepSpeed", "base_model": "PEFT"}
"""Component that a wrapper of the whole model adds → whose it is."""
OLD = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
"""How names ended in early releases of transformers and PyTorch → how they end now."""

_INSIDE = re.compile(rf"(?<![^.])({'|'.join(INSIDE)})\.")
_OLD = re.compile(rf"(?<![^.])({'|'.join(map(re.escape, OLD))})$")
_NUMBERED = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Names:
    """The tensors of a checkpoint by name.

    Attributes:
        stored: plain name → name in the file, in the order of the file.
        changes: what was done to names, a few words each.
        twice: two names in the file that are one plain name; None when there are none.
    """

    stored: dict[str, str]
    changes: tuple[str, ...] = ()
    twice: tuple[str, str] | None = None


@lru_cache(maxsize=64)
def plain_names(stored: tuple[str, ...], model_type: str = "") -> Names:
    """The plain names of tensors.

    Args:
        stored: their names in the file.
        model_type: of the config: most families' base model is called by it (`bert.encoder…`).

    >>> found = plain_names(("module._orig_mod.bert.encoder.layer.0.output.LayerNorm.gamma",), "bert")
    >>> list(found.stored), found.changes[0]
    (['bert.encoder.layer.0.output.LayerNorm.weight'], "'_orig_mod.' (torch.compile) taken out of names")
    """
    plain, message = list(stored), dict[str, None]()
    for number, name in enumerate(plain):
        for component in _INSIDE.findall(name):
            message[f"'{component}.' ({INSIDE[component]}) taken out of names"] = None
        plain[number] = _INSIDE.sub("", name)
    while ahead := _ahead(plain, model_type):
        message[f"'{ahead}.' ({AHEAD.get(ahead, 'a module that held the model')}) taken off names"] = None
        plain = [name.removeprefix(f"{ahead}.") for name in plain]
    for number, name in enumerate(plain):
        for ending in _OLD.findall(name):
            message[f"'{ending}' read as '{OLD[ending]}'"] = None
        plain[number] = _OLD.sub(lambda found: OLD[found[0]], name)
    locations: dict[str, str] = {}
    for name, was in zip(plain, stored, strict=True):
        if name in locations:
            return Names(dict(zip(stored, stored, strict=True)), (), (locations[name], was))
        locations[name] = was
    return Names(locations, tuple(message))


def _ahead(names: Sequence[str], model_type: str) -> str | None:
    """The first component of all layers' names, where it is a wrapper's: what it wraps begins right behind it."""
    layers = [name.split(".", 2) for name in names if _NUMBERED.search(name)]
    first = {parts[0] for parts in layers}
    if len(first) != 1:
        return None
    (component,) = first
    begins = {"model", "transformer", model_type} & {parts[1] for parts in layers}
    return component if component in AHEAD or (begins and component != model_type) else None
