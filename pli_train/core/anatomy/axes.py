"""View tensors along heads, K/V groups or FFN units.

Works on numpy arrays and torch tensors. Functions that need einops import it, so that reading a table stays fast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any


def factors(axes: str) -> list[str]:
    """Return the names in an einops pattern.

    >>> factors("(head dim) model")
    ['head', 'dim', 'model']
    """
    return re.findall(r"\w+", axes)


def each_axis(axes: str) -> list[str]:
    """Split an einops pattern into its axes.

    >>> each_axis("(head dim) model")
    ['(head dim)', 'model']
    """
    return re.findall(r"\([^)]*\)|\w+", axes)


@cache
def growing(axes: str) -> str | None:
    """Return the factor along which a tensor can grow: `head`, `group` or `unit`; None if it has none.

    >>> growing("(group member dim) model")
    'group'
    """
    return next((factor for factor in factors(axes) if factor in ("head", "group", "unit")), None)


def rows(tensor: Any, axes: str, factor: str, sizes: Mapping[str, int]) -> Any:
    """Return a tensor with one axis for each factor, the given factor first: (factor, …).

    Args:
        tensor: a tensor with the axes of the pattern.
        axes: einops pattern, e.g. `(head dim) model`.
        factor: a name in the pattern.
        sizes: factor → current size; sizes that einops can infer from the shape may be missing.
    """
    from einops import rearrange

    known = {name: sizes[name] for name in factors(axes) if name in sizes}
    return rearrange(tensor, f"{axes} -> {_front(axes, factor)}", **known)


def from_rows(tensor: Any, axes: str, factor: str) -> Any:
    """Undo `rows`."""
    from einops import rearrange

    return rearrange(tensor, f"{_front(axes, factor)} -> {axes}")


def _front(axes: str, factor: str) -> str:
    return " ".join([factor, *(name for name in factors(axes) if name != factor)])
