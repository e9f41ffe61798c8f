"""Anatomy: which slice of which tensor belongs to which layer, head or FFN. One table per model family.

Each family is one table, `<model_type>.toml` beside this file. For every tensor of a layer it gives an einops pattern
of the tensor's axes, in which these factors say where the parts lie:

    head             heads, each with keys and values of its own
    group, member    grouped-query attention: groups that share keys and values, and the heads of a group
    dim              the size of a head
    qkv              the three of a fused projection
    unit, gate       units of the FFN, and the two of a fused gated projection

A factor of any other name is an axis that no part is counted along. `*` in a name stands for a number: the experts of a
mixture. A model without a table can still be grown by layers: `discover` finds its stack.

A table serves reading (`family`), and training too (`to_train`) where growth of the family is tested: `grows`.

No torch here: the same tables serve training and reading.
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
    """One family's table.

    Attributes:
        model_type: what `config.json` calls the family.
        task: the objective that the family is pre-trained with: `masked-lm`, `causal-lm` or `image-classification`.
        norm: `pre` or `post`: whether norms come before a residual branch or after the residual sum.
        stack: dotted path of the layers' ModuleList, below the base model.
        config: what the family's config calls `depth`, `heads`, `hidden` and `units` (the FFN's width), and where it
            has them: `positions`, `positions_after` (names a token id; positions count on from it), `image` and
            `patch` (their sizes), `groups`, `head_dim` (where a config may state it, whatever hidden and heads are),
            `layer_types` (a type a layer).
        tensors: name within a layer → (kind of part, einops pattern of its axes). Biases among them may be missing in
            a model whose config switches them off.
        live: what a layer's modules call their own sizes: dotted path within a layer → product of factors.
        identity: `zero`: the modules whose output joins the residual stream; post-LN only: `first_norm` and
            `last_norm` of a layer, and `below`, the norm under the stack, below the base model.
        bottom: `missing`: modules that layer 0 lacks → the module of a layer whose shape they have above it.
        bottom_only: tensors that layer 0 alone has.
        given: fields of the config → the value they must have for the table to hold.
        heads_divide_width: whether the config refuses heads that do not, whatever size it states for them.
        rotary: the share of a head's dimensions that rotary positions turn, unless the config says another; 0 for none.
        qk_norm: whether every head's queries and keys are normalized before their product, or the field of the config
            that says so.
        layer_type: dotted path of the attribute in which a layer keeps its entry of `layer_types`.
        saved: where `save_pretrained` writes other names: its `stack`, and modules of a layer as written → as here.
        stacks: of a model that has several, path of each below the base model → what its `config` has otherwise.
        layout: fields of the config → the value with which tensors are laid out as the table says.
        rows: name of a tensor that holds several, one above the other → their names in `tensors`, in order.
        rotary_pairs: which dimensions rotary positions turn together: `halves` (i and i + half of them) or `adjacent`.
        heeded: fields that the family's layers heed though its config declares none of them.
        note: what a reader of measures must know about this family, in one line.
        grows: whether growth in training is tested; if not, the table is for analysis only.
        by_name: whether it is no table, but layers found by the names of tensors: see `pli_train.core.anatomy.names`.
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
        """The same table for one of the family's stacks.

        >>> family("t5").at("decoder.block").config["depth"]
        'num_decoder_layers'
        """
        return replace(self, stack=stack, config=self.config | self.stacks.get(stack, {}))

    def naming(self, names: Iterable[str]) -> Anatomy:
        """The same table with every `*` in the name of a tensor replaced by the numbers that are there.

        Args:
            names: of tensors within a layer.
        """
        wild = {_wild(name): message for name, message in self.tensors.items() if "*" in name}
        if not wild:
            return self
        there = {n: message for n in sorted(set(names)) for pattern, message in wild.items() if pattern.fullmatch(n)}
        return replace(self, tensors={n: message for n, message in self.tensors.items() if "*" not in n} | there)

    def locate(self, name: str) -> tuple[str, int, str] | None:
        """Split a parameter's full name into (path of the stack, index, name within the layer).

        None for a parameter outside the stack.

        >>> family("bert").locate("bert.encoder.layer.3.output.dense.bias")
        ('bert.encoder.layer', 3, 'output.dense.bias')
        >>> family("gpt2").locate("transformer.wte.weight") is None
        True
        >>> family("vit").locate("vit.encoder.layer.3.attention.attention.query.bias")
        ('vit.encoder.layer', 3, 'attention.q_proj.bias')
        """
        for stack in filter(None, (self.stack, self.saved.get("stack"))):
            if found := _stack_pattern(stack, self.by_name).match(name):
                module, _, last = found["inner"].rpartition(".")
                inner = (
                    f"{self.saved[module]}.{last}" if stack != self.stack and module in self.saved else found["inner"]
                )
                return found["path"], int(found["index"]), inner
        return None

    def by_id(self, name: str, stack: Sequence[str]) -> str:
        """The parameter's name with the layer's id in place of its index, so that it survives an insertion.

        >>> family("gpt2").by_id("transformer.h.1.ln_1.bias", ["a", "c", "b"])
        'transformer.h.<c>.ln_1.bias'
        """
        position = self.locate(name)
        return f"{position[0]}.<{stack[position[1]]}>.{position[2]}" if position else name

    def sizes(self, config: object) -> dict[str, int]:
        """How many of each countable factor a model's layers have: `head`, `group`, `member`, `qkv` and `gate`.

        Without shared keys and values a head is a group of one. A model without heads has 0 of them.

        Args:
            config: a Hugging Face config, or what is in its `config.json`.

        >>> family("llama").sizes({"num_attention_heads": 8, "num_key_value_heads": 2})
        {'head': 8, 'group': 2, 'member': 4, 'qkv': 3, 'gate': 2}

        Raises:
            BadInput: when the config does not say how many heads there are, or heads do not divide among groups.
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
        """The share of a head's dimensions that rotary positions turn.

        Args:
            config: what is in a model's `config.json`. Releases of transformers before 5 call it otherwise.

        >>> family("gpt_neox").rotated({"rope_parameters": {"partial_rotary_factor": 0.5}})
        0.5
        >>> family("gpt_neox").rotated({"rotary_pct": 1.0}), family("llama").rotated({}), family("gpt2").rotated({})
        (1.0, 1.0, 0.0)
        """
        if not self.rotary:
            return 0.0
        message = config.get("rope_parameters")
        message = message if isinstance(message, Mapping) else {}
        usual = config.get("partial_rotary_factor", config.get("rotary_pct", self.rotary))
        turned, hidden = config.get("rotary_dim"), config.get(self.config.get("hidden", ""))
        if isinstance(turned, int) and isinstance(hidden, int) and hidden > 0 and "heads" in self.config:
            usual = turned * self.sizes(config)["head"] / hidden
        share = message.get("partial_rotary_factor", usual)
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise BadInput(f"the config of this {self.model_type} turns a share of {share!r} of a head's dimensions")
        return float(share)

    def normalized(self, config: Mapping[str, Any]) -> bool:
        """Whether queries and keys are normalized before their product.

        >>> family("qwen3").normalized({}), family("phi").normalized({"qk_layernorm": True})
        (True, True)
        """
        return bool(config.get(self.qk_norm)) if isinstance(self.qk_norm, str) else self.qk_norm

    @property
    def first_index(self) -> int:
        """The lowest index that a layer can be inserted at: above a bottom layer that lacks something."""
        return 1 if self.bottom else 0

    def positions(self, config: object) -> int | None:
        """How many tokens a block may have, or an image makes; None where the config does not say.

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
        """Cut one tensor of a layer into the parts it belongs to; every element goes to exactly one.

        Args:
            name: its name within the layer.
            tensor: a numpy array or a torch tensor of the shape that the model keeps.
            sizes: of the layer, as `sizes` gives them.

        Yields:
            (part, values): part is `h0`, `h1`, … for what belongs to one head; `g0`, `g1`, … for the keys and values
            that the heads of a group share; else `attention`, `ffn`, `norms`, or `other` for a tensor that the table
            does not name. Head h of group g is number g · member + h. A group of one is its head.
        """
        if name in self.rows:
            for inner, (start, stop) in self.stretches(name, tensor.shape[0], sizes).items():
                yield from self.split(inner, tensor[start:stop], sizes)
            return
        owners, labels = self.owners(name), self.labels(name, sizes)
        if not owners:
            yield labels[0], tensor
            return
        from einops import rearrange  # imported here because the tables alone must stay light to read

        axes = self.tensors[name][1]
        names = factors(axes)
        rest = " ".join(name for name in names if name not in owners)
        known = {name: sizes[name] for name in names if name in sizes}
        cut = rearrange(tensor, f"{axes} -> ({' '.join(owners)}) ({rest})", **known)
        yield from zip(labels, cut, strict=True)

    def stretches(self, name: str, length: int, sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """The rows of each of the tensors that one holds: name → (start, stop).

        Args:
            name: of the tensor that holds them, within a layer.
            length: how many rows it has.
            sizes: of the layer, as `sizes` gives them.

        >>> found = family("phi3").stretches("self_attn.qkv_proj.weight", 64, {"group": 2, "member": 2})
        >>> found["self_attn.qkv_proj.weight[k]"]
        (32, 48)

        Raises:
            ValueError: when they do not fill it.
        """
        counts = []
        for inner in self.rows[name]:
            first = each_axis(self.tensors[inner][1])[0]
            counts.append(math.prod(sizes[factor] for factor in factors(first) if factor in sizes))
        if length % sum(counts):
            raise ValueError(f"{length} rows of {name} are no whole multiple of {sum(counts)}")
        ends = [0, *(length // sum(counts) * total for total in itertools.accumulate(counts))]
        return dict(zip(self.rows[name], itertools.pairwise(ends), strict=True))

    def owners(self, name: str) -> list[str]:
        """The factors of a tensor's axes that number the parts it falls into; none where it is of one part."""
        names = factors(self.tensors.get(name, ("other", ""))[1])
        return [factor for factor in ("head", "group", "member") if factor in names]

    def labels(self, name: str, sizes: Mapping[str, int]) -> list[str]:
        """The parts that a tensor of a layer falls into, in order, called as `split` calls them."""
        owners = self.owners(name)
        if not owners:
            return [self.tensors.get(name, ("other", ""))[0]]
        shared = owners == ["group"] and sizes["member"] > 1
        return [f"{'g' if shared else 'h'}{number}" for number in range(math.prod(sizes[owner] for owner in owners))]


@cache
def families() -> tuple[str, ...]:
    """The model types that have a table."""
    return tuple(sorted(path.stem for path in TABLES.glob("*.toml")))


@cache
def trainable() -> tuple[str, ...]:
    """The model types whose growth in training is tested."""
    return tuple(name for name in families() if family(name).grows)


def to_train(model_type: str) -> Anatomy:
    """The table of a model type to train with. Raises BadInput without one, and where it is for analysis only."""
    found = family(model_type)
    if not found.grows:
        raise BadInput(
            f"model type '{model_type}' has a table for analysis only, as its growth in training is not tested "
            f"(families to train: {', '.join(trainable())})"
        )
    return found


@cache
def family(model_type: str) -> Anatomy:
    """The table of a model type. Raises BadInput for a family without one."""
    if model_type not in families():
        raise BadInput(
            f"model type '{model_type}' has no anatomy here{did_you_mean(str(model_type), families())} "
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
    # The base model's own prefix (`bert.`, `transformer.`) is there under a task head and missing without one.
    prefix = "" if whole else r"(?:\w+\.)?"
    return re.compile(rf"^(?P<path>{prefix}{re.escape(stack)})\.(?P<index>\d+)\.(?P<inner>.+)$")


@cache
def _wild(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\*", r"\d+"))
