"""The base config of a study, and changes to it by dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pli_train.config import loading
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.sweep.space import Space

ALWAYS = 1e9
"""Value of `train.eval_full` with which every run is evaluated on all held-out text."""


def base_config(space: Space) -> RunConfig:
    """Return the base config with the fixed values of a space. Raises BadInput with every mistake."""
    return changed(loading.load(space.base), {"train.eval_full": ALWAYS, **space.fixed}, f"{space.name}: set")


def changed(config: RunConfig, changes: Mapping[str, Any], source: str) -> RunConfig:
    """Return a config with changed values. Raises BadInput that names `source`."""
    table = config.model_dump()
    for key, value in changes.items():
        _put(table, key, value, source)
    return loading.check(table, source)


def _put(table: dict[str, Any], key: str, value: Any, source: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise BadInput(f"{source}: {key}: '{section}' is a value, not a section")
    table[last] = deepcopy(value)
