"""View tensors along heads, K/V groups or FFN units.

Works on numpy arrays and torch tensors alike; einops is imported where it is needed, so that tables stay light to read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any


def factors(axes: str) -> list[str]:
    """The names in an einops pattern.

    >>> factors("(head dim) model")
    ['head', 'dim', 'model']
    """
    return re.findall(r"\w+", axes)


def each_axis(axes: str) -> list[str]:
    """The axes of an einops pattern apart.

    >>> each_axis("(head dim) model")
    ['(head dim)', 'model']
    """
    return re.findall(r"\([^)]*\)|\w+", axes)


@cache
def growing(axes: str) -> str | None:
    """The factor along which a tensor of these axes can grow: `head`, `group` or `unit`; None when there is none.

    >>> growing("(group member dim) model")
    'group'
    """
    return next((factor for factor in factors(axes) if factor in ("head", "group", "unit")), None)


def rows(tensor: Any, axes: str, factor: str, sizes: Mapping[str, int]) -> Any:
    """A tensor with one factor of its axes in front and the others apart: (factor, …).

    Args:
        tensor: shaped as `axes` says.
        axes: einops pattern, e.g. `(head dim) model`.
        factor: one of its names.
        sizes: factor → size now; those that einops can infer from the shape may be missing.
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
