"""View tensors along heads, K/V groups or FFN units.

Works on numpy arrays and torch tensors. Functions that need einops import it, so that reading a table stays fast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

NOTHING = -1
"""The source of a zero row."""


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


def take(tensor: Any, axes: str, factor: str, sizes: Mapping[str, int], sources: Sequence[int]) -> Any:
    """Select rows along one factor: row i of the result is the old row `sources[i]`, or zero for NOTHING.

    Arguments are those of `rows`.

    >>> import numpy as np
    >>> take(np.arange(6.0).reshape(6, 1), "(head dim) model", "head", {"head": 3}, [2, NOTHING]).ravel().tolist()
    [4.0, 5.0, 0.0, 0.0]
    """
    selected = rows(tensor, axes, factor, sizes)[[max(source, 0) for source in sources]]
    if empty := [index for index, source in enumerate(sources) if source == NOTHING]:
        selected[empty] = 0
    return from_rows(selected, axes, factor)


def _front(axes: str, factor: str) -> str:
    return " ".join([factor, *(name for name in factors(axes) if name != factor)])
