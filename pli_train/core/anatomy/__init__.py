"""Anatomy: which slice of which tensor belongs to which layer, head or FFN. One table per model family.

Each family has one table, `<model_type>.toml` in this folder. For every tensor of a layer, the table gives an einops
pattern of the tensor's axes. These factors of the pattern locate the parts:

    head             heads with their own keys and values
    group, member    grouped-query attention: groups that share keys and values, and the heads of a group
    dim              the size of a head
    qkv              the three projections of a fused Q/K/V tensor
    unit, gate       units of the FFN, and the two projections of a fused gated tensor

Any other factor is an axis that is not split into parts. `*` in a tensor's name stands for a number, such as that of an
expert in a mixture. A model without a table can still grow by layers: `discover` finds its stack.

`family` returns a table for analysis. `to_train` returns one for training, if growth of the family is tested (`grows`).

This package does not import torch, because analysis reads the tables without it.
"""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pli_train.core.anatomy.axes import each_axis, factors
from pli_train.core.errors import BadInput, did_you_mean

TABLES = Path(__file__).parent
FUSED = {"qkv": 3, "gate": 2}
KINDS = ("attention", "ffn", "norms")


@dataclass(frozen=True)
class Anatomy:
    """The table of one model family.

    Attributes:
        model_type: the family's name in `config.json`.
        task: the objective that the family is pre-trained with: `masked-lm`, `causal-lm` or `image-classification`.
        norm: `pre` if norms come before a residual branch, `post` if they come after the residual sum.
        stack: dotted path of the layers' ModuleList, relative to the base model.
        config: the names of the family's config fields for `depth`, `heads`, `hidden` and `units` (the FFN's width),
            and if the config has them: `positions`, `positions_after` (the token id after which positions start),
            `image` and `patch` (their sizes), `groups`, `head_dim` (if it can be set independently of hidden and
            heads), `layer_types` (one type per layer).
        tensors: name within a layer → (kind of part, einops pattern of its axes). Biases may be missing in a model
            whose config disables them.
        live: attributes in which a layer's modules store sizes: dotted path within a layer → product of factors.
        identity: `zero`: the modules whose output is added to the residual stream; for post-LN only: `first_norm` and
            `last_norm` of a layer, and `below`, the norm before the first layer, relative to the base model.
        bottom: `missing`: modules that layer 0 lacks → the module of a layer that has the same shape in other layers.
        bottom_only: tensors that only layer 0 has.
        given: config fields → the value that the table requires.
        heads_divide_width: whether the config requires the hidden size to be a multiple of the number of heads, even
            if it sets the size of a head.
        rotary: the default share of a head's dimensions that rotary positions rotate; 0 without rotary positions.
        qk_norm: whether queries and keys of each head are normalized before their product, or the name of the config
            field that decides it.
        layer_type: dotted path of the attribute in which a layer stores its entry of `layer_types`.
        saved: names that `save_pretrained` writes differently: its `stack`, and the modules of a layer, from the
            saved name to the name in this table.
        stacks: for a model with several stacks: path of each relative to the base model → its entries of `config` that
            differ.
        layout: config fields → the value for which tensors are laid out as in the table.
        rows: name of a tensor that stacks several tensors along its rows → their names in `tensors`, in order.
        rotary_pairs: which dimensions rotary positions rotate together: `halves` (i and i + half) or `adjacent`.
        heeded: fields that the family's layers read although its config does not declare them.
        note: a one-line caution for readers of measurements of this family.
        grows: whether growth in training is tested; if not, the table is for analysis only.
        by_name: whether the layers were found by tensor names instead of a table: see `pli_train.core.anatomy.names`.
    """

    model_type: str
    task: str
    norm: str
    stack: str
    config: dict[str, str]
    tensors: dict[str, tuple[str, str]]
    live: dict[str, str] = field(default_factory=dict)
    identity: dict[str, str | list[str]] = field(default_factory=dict)
    bottom: dict[str, dict[str, str]] = field(default_factory=dict)
    bottom_only: list[str] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)
    heads_divide_width: bool = False
    rotary: float = 0.0
    qk_norm: bool | str = False
    layer_type: str | None = None
    saved: dict[str, str] = field(default_factory=dict)
    stacks: dict[str, dict[str, str]] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, list[str]] = field(default_factory=dict)
    rotary_pairs: str = "halves"
    heeded: list[str] = field(default_factory=list)
    note: str = ""
    grows: bool = True
    by_name: bool = False

    def __hash__(self) -> int:
        return hash((self.model_type, self.stack, len(self.tensors)))

    def at(self, stack: str) -> Anatomy:
        """Return the table for one of the family's stacks.

        >>> family("t5").at("decoder.block").config["depth"]
        'num_decoder_layers'
        """
        return replace(self, stack=stack, config=self.config | self.stacks.get(stack, {}))

    def naming(self, names: Iterable[str]) -> Anatomy:
        """Return the table with every `*` in a tensor's name replaced by the numbers that occur in `names`.

        Args:
            names: names of tensors within a layer.
        """
        wild = {_wild(name): entry for name, entry in self.tensors.items() if "*" in name}
        if not wild:
            return self
        named = {n: entry for n in sorted(set(names)) for pattern, entry in wild.items() if pattern.fullmatch(n)}
        return replace(self, tensors={n: entry for n, entry in self.tensors.items() if "*" not in n} | named)

    def locate(self, name: str) -> tuple[str, int, str] | None:
        """Split a parameter's full name into (path of the stack, index, name within the layer).

        Return None for a parameter outside the stack.

        >>> family("bert").locate("bert.encoder.layer.3.output.dense.bias")
        ('bert.encoder.layer', 3, 'output.dense.bias')
        >>> family("gpt2").locate("transformer.wte.weight") is None
        True
        >>> family("vit").locate("vit.encoder.layer.3.attention.attention.query.bias")
        ('vit.encoder.layer', 3, 'attention.q_proj.bias')
        """
        for stack in filter(None, (self.stack, self.saved.get("stack"))):
            if match := _stack_pattern(stack, self.by_name).match(name):
                module, _, last = match["inner"].rpartition(".")
                inner = (
                    f"{self.saved[module]}.{last}" if stack != self.stack and module in self.saved else match["inner"]
                )
                return match["path"], int(match["index"]), inner
        return None

    def by_id(self, name: str, stack: Sequence[str]) -> str:
        """Return the parameter's name with the layer's id instead of its index, so that insertions do not change it.

        >>> family("gpt2").by_id("transformer.h.1.ln_1.bias", ["a", "c", "b"])
        'transformer.h.<c>.ln_1.bias'
        """
        location = self.locate(name)
        return f"{location[0]}.<{stack[location[1]]}>.{location[2]}" if location else name

    def sizes(self, config: object) -> dict[str, int]:
        """Return how many `head`, `group`, `member`, `qkv` and `gate` a model's layers have.

        Without shared keys and values, each head is its own group. A model without heads has 0 heads and groups.

        Args:
            config: a Hugging Face config, or the content of its `config.json`.

        >>> family("llama").sizes({"num_attention_heads": 8, "num_key_value_heads": 2})
        {'head': 8, 'group': 2, 'member': 4, 'qkv': 3, 'gate': 2}

        Raises:
            BadInput: if the config has no valid number of heads, or it is not a multiple of the number of groups.
        """
        if "heads" not in self.config:
            return {"head": 0, "group": 0, "member": 1, **FUSED}
        heads = _lookup(config, self.config["heads"])
        if not isinstance(heads, int) or heads < 1:
            raise BadInput(f"the config of this {self.model_type} gives {self.config['heads']} = {heads!r}")
        groups = _lookup(config, self.config["groups"]) if "groups" in self.config else None
        groups = heads if groups is None else groups
        if not isinstance(groups, int) or groups < 1 or heads % groups:
            raise BadInput(f"the config of this {self.model_type} gives {heads} heads in {groups!r} groups")
        return {"head": heads, "group": groups, "member": heads // groups, **FUSED}

    def rotated(self, config: Mapping[str, Any]) -> float:
        """Return the share of a head's dimensions that rotary positions rotate.

        Args:
            config: the content of a model's `config.json`. Both names are read: those of transformers 5, and older.

        >>> family("gpt_neox").rotated({"rope_parameters": {"partial_rotary_factor": 0.5}})
        0.5
        >>> family("gpt_neox").rotated({"rotary_pct": 1.0}), family("llama").rotated({}), family("gpt2").rotated({})
        (1.0, 1.0, 0.0)
        """
        if not self.rotary:
            return 0.0
        rope = config.get("rope_parameters")
        rope = rope if isinstance(rope, Mapping) else {}
        usual = config.get("partial_rotary_factor", config.get("rotary_pct", self.rotary))
        turned, hidden = config.get("rotary_dim"), config.get(self.config.get("hidden", ""))
        if isinstance(turned, int) and isinstance(hidden, int) and hidden > 0 and "heads" in self.config:
            usual = turned * self.sizes(config)["head"] / hidden
        share = rope.get("partial_rotary_factor", usual)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise BadInput(f"the config of this {self.model_type} turns a share of {share!r} of a head's dimensions")
        return float(share)

    def normalized(self, config: Mapping[str, Any]) -> bool:
        """Return whether queries and keys are normalized before their product.

        >>> family("qwen3").normalized({}), family("phi").normalized({"qk_layernorm": True})
        (True, True)
        """
        return bool(config.get(self.qk_norm)) if isinstance(self.qk_norm, str) else self.qk_norm

    @property
    def first_index(self) -> int:
        """The lowest index at which a layer can be inserted: 1 if layer 0 lacks a module, else 0."""
        return 1 if self.bottom else 0

    def positions(self, config: object) -> int | None:
        """Return the maximum number of tokens in a block, or those of an image; None if the config has no limit.

        >>> family("vit").positions({"image_size": 8, "patch_size": 2})
        17
        >>> family("roberta").positions({"max_position_embeddings": 514, "pad_token_id": 1})
        512
        """
        if "patch" in self.config:
            image, patch = (_sides(_lookup(config, self.config[name])) for name in ("image", "patch"))
            return 1 + (image[0] // patch[0]) * (image[1] // patch[1])
        if "positions" not in self.config:
            return None
        positions = _lookup(config, self.config["positions"])
        if "positions_after" in self.config:
            positions -= (_lookup(config, self.config["positions_after"]) or 0) + 1
        return int(positions)

    def split(self, name: str, tensor: Any, sizes: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
        """Split one tensor of a layer into its parts; every element belongs to exactly one part.

        Args:
            name: the tensor's name within the layer.
            tensor: a numpy array or a torch tensor with the shape that the model uses.
            sizes: sizes of the layer, as returned by `sizes`.

        Yields:
            (part, values): part is `h0`, `h1`, … for one head; `g0`, `g1`, … for the keys and values shared by the
            heads of a group; else `attention`, `ffn`, `norms`, or `other` for a tensor that is not in the table. Head h
            of group g has number g · member + h. A group of one head is called by its head.
        """
        if name in self.rows:
            for inner, (start, stop) in self.stretches(name, tensor.shape[0], sizes).items():
                yield from self.split(inner, tensor[start:stop], sizes)
            return
        owners, labels = self.owners(name), self.labels(name, sizes)
        if not owners:
            yield labels[0], tensor
            return
        from einops import rearrange  # imported here because reading a table alone must stay fast

        axes = self.tensors[name][1]
        names = factors(axes)
        rest = " ".join(name for name in names if name not in owners)
        known = {name: sizes[name] for name in names if name in sizes}
        slices = rearrange(tensor, f"{axes} -> ({' '.join(owners)}) ({rest})", **known)
        yield from zip(labels, slices, strict=True)

    def stretches(self, name: str, length: int, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Return the rows of each tensor within a tensor that stacks several: name → (start, stop).

        Args:
            name: name of the stacked tensor within a layer.
            length: its number of rows.
            sizes: sizes of the layer, as returned by `sizes`.

        >>> rows = family("phi3").stretches("self_attn.qkv_proj.weight", 64, {"group": 2, "member": 2})
        >>> rows["self_attn.qkv_proj.weight[k]"]
        (32, 48)

        Raises:
            ValueError: if the number of rows does not fit the sizes.
        """
        counts = []
        for inner in self.rows[name]:
            first = each_axis(self.tensors[inner][1])[0]
            counts.append(math.prod(sizes[factor] for factor in factors(first) if factor in sizes))
        if length % sum(counts):
            raise ValueError(f"{name} has {length} rows, expected a multiple of {sum(counts)}")
        ends = [0, *(length // sum(counts) * total for total in itertools.accumulate(counts))]
        return dict(zip(self.rows[name], itertools.pairwise(ends), strict=True))

    def owners(self, name: str) -> list[str]:
        """Return the factors of a tensor's axes that number its parts; empty if the tensor is one part."""
        names = factors(self.tensors.get(name, ("other", ""))[1])
        return [factor for factor in ("head", "group", "member") if factor in names]

    def labels(self, name: str, sizes: Mapping[str, int]) -> list[str]:
        """Return the labels of a tensor's parts, in the order and with the names of `split`."""
        owners = self.owners(name)
        if not owners:
            return [self.tensors.get(name, ("other", ""))[0]]
        shared = owners == ["group"] and sizes["member"] > 1
        return [f"{'g' if shared else 'h'}{number}" for number in range(math.prod(sizes[owner] for owner in owners))]


@cache
def families() -> tuple[str, ...]:
    """Return the model types that have a table."""
    return tuple(sorted(path.stem for path in TABLES.glob("*.toml")))


@cache
def trainable() -> tuple[str, ...]:
    """Return the model types whose growth in training is tested."""
    return tuple(name for name in families() if family(name).grows)


def to_train(model_type: str) -> Anatomy:
    """Return the table of a model type for training. Raises BadInput if it has none, or one for analysis only."""
    table = family(model_type)
    if not table.grows:
        raise BadInput(
            f"model type '{model_type}' has a table for analysis only, as its growth in training is not tested "
            f"(families to train: {', '.join(trainable())})"
        )
    return table


@cache
def family(model_type: str) -> Anatomy:
    """Return the table of a model type. Raises BadInput if it has none."""
    if model_type not in families():
        raise BadInput(
            f"model type '{model_type}' has no anatomy table{did_you_mean(str(model_type), families())} "
            f"(known: {', '.join(families())})"
        )
    table = tomllib.loads((TABLES / f"{model_type}.toml").read_text(encoding="utf-8"))
    table["tensors"] = {name: (kind, axes) for kind in KINDS for name, axes in table.pop(kind, {}).items()}
    return Anatomy(**table)


def _lookup(config: object, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _sides(size: int | Sequence[int]) -> Sequence[int]:
    return (size, size) if isinstance(size, int) else size


@cache
def _stack_pattern(stack: str, whole: bool = False) -> re.Pattern[str]:
    # Names have the base model's prefix (`bert.`, `transformer.`) if the model has a task head, and none otherwise.
    prefix = "" if whole else r"(?:\w+\.)?"
    return re.compile(rf"^(?P<path>{prefix}{re.escape(stack)})\.(?P<index>\d+)\.(?P<inner>.+)$")


@cache
def _wild(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\*", r"\d+"))
