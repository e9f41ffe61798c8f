"""Where a model keeps its layers, heads and FFNs: which slice of which tensor belongs to which part.

Each family is one table, `<model_type>.toml` beside this file. A table names the stack below the base model, what
the family's config calls depth, heads and width, and for every tensor of a layer an einops pattern of its axes in
which the factor `head` says where the heads lie. `qkv` stands for the three of a fused projection.

No torch here: the same tables serve training and reading.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pli_train.errors import BadInput, did_you_mean

TABLES = Path(__file__).parent
SIZES = {"qkv": 3}
KINDS = ("attention", "ffn", "norms")


@dataclass(frozen=True)
class Anatomy:
    """One family's table.

    Attributes:
        model_type: what `config.json` calls the family.
        task: `masked-lm` or `causal-lm`: the objective that the family is pre-trained with.
        norm: `pre` or `post`: whether norms come before a residual branch or after the residual sum.
        stack: dotted path of the layers' ModuleList, below the base model.
        config: `depth`, `heads`, `hidden`, `positions` → the names of those fields in the family's config.
        tensors: name within a layer → (kind of part, einops pattern of its axes).
    """

    model_type: str
    task: str
    norm: str
    stack: str
    config: dict[str, str]
    tensors: dict[str, tuple[str, str]]

    def locate(self, name: str) -> tuple[str, int, str] | None:
        """Split a parameter's full name into (path of the stack, index, name within the layer).

        None for a parameter outside the stack.

        >>> family("bert").locate("bert.encoder.layer.3.output.dense.bias")
        ('bert.encoder.layer', 3, 'output.dense.bias')
        >>> family("gpt2").locate("transformer.wte.weight") is None
        True
        """
        found = _stack_pattern(self.stack).match(name)
        return (found["path"], int(found["index"]), found["inner"]) if found else None

    def by_id(self, name: str, stack: Sequence[str]) -> str:
        """The parameter's name with the layer's id in place of its index, so that it survives an insertion.

        >>> family("gpt2").by_id("transformer.h.1.ln_1.bias", ["a", "c", "b"])
        'transformer.h.<c>.ln_1.bias'
        """
        place = self.locate(name)
        return f"{place[0]}.<{stack[place[1]]}>.{place[2]}" if place else name

    def split(self, name: str, tensor: Any, heads: int) -> Iterator[tuple[str, Any]]:
        """Cut one tensor of a layer into the parts it belongs to; every element goes to exactly one.

        Args:
            name: its name within the layer.
            tensor: a numpy array or a torch tensor of the shape that the model keeps.
            heads: how many heads the layer has.

        Yields:
            (part, values): part is `h0`, `h1`, … for what belongs to one head, else `attention`, `ffn`, `norms`, or
            `other` for a tensor that the table does not name.
        """
        kind, axes = self.tensors.get(name, ("other", ""))
        if "head" not in axes:
            yield kind, tensor
            return
        from einops import rearrange  # imported here because the tables alone must stay light to read

        factors = re.findall(r"\w+", axes)
        rest = " ".join(factor for factor in factors if factor != "head")
        sizes = {factor: SIZES[factor] for factor in factors if factor in SIZES}
        per_head = rearrange(tensor, f"{axes} -> head ({rest})", head=heads, **sizes)
        for number in range(heads):
            yield f"h{number}", per_head[number]


@cache
def families() -> tuple[str, ...]:
    """The model types that have a table."""
    return tuple(sorted(path.stem for path in TABLES.glob("*.toml")))


@cache
def family(model_type: str) -> Anatomy:
    """The table of a model type. Raises BadInput for a family without one."""
    if model_type not in families():
        raise BadInput(
            f"model type '{model_type}' has no anatomy here{did_you_mean(str(model_type), families())} "
            f"(known: {', '.join(families())})"
        )
    table = tomllib.loads((TABLES / f"{model_type}.toml").read_text(encoding="utf-8"))
    tensors = {name: (kind, axes) for kind in KINDS for name, axes in table[kind].items()}
    return Anatomy(table["model_type"], table["task"], table["norm"], table["stack"], table["config"], tensors)


@cache
def _stack_pattern(stack: str) -> re.Pattern[str]:
    # The base model's own prefix (`bert.`, `transformer.`) is there under a task head and missing without one.
    return re.compile(rf"^(?P<path>(?:\w+\.)?{re.escape(stack)})\.(?P<index>\d+)\.(?P<inner>.+)$")
