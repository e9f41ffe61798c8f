"""Named growth schedules, each from a paper: one file per schedule.

A schedule turns a model's beginning (its depth, heads and FFN units) into operator tables as a config would write
them. It knows no torch and grows nothing itself.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from pli_train.core.errors import BadInput, did_you_mean
from pli_train.growth.schedules.named import NamedSchedule


def _found() -> dict[str, type[NamedSchedule]]:
    """Every class of this folder's modules that gives its `name` a value."""
    found = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, NamedSchedule) and value.__module__ == module.name:
                name = value.model_fields["name"].default
                if isinstance(name, str):
                    found[name] = value
    return found


SCHEDULES: dict[str, type[NamedSchedule]] = _found()
"""The schedules by the name that users write."""


def read(table: dict[str, Any]) -> NamedSchedule:
    """The schedule that a config's table asks for.

    >>> read({"name": "g-stack", "at": 0.1}).events(depth=1, heads=None, units=None, total_steps=None)[0]
    {'operator': 'insert', 'at': 0.1, 'index': 1, 'initializer': 'clone', 'donor': 'a'}

    Raises:
        BadInput: when `name` is missing or is that of no schedule.
        pydantic.ValidationError: for what is wrong in the other fields.
    """
    name = table.get("name")
    known = f"(known: {', '.join(SCHEDULES)})"
    if name is None:
        raise BadInput(f"growth.schedule: name is missing {known}")
    if not isinstance(name, str) or name not in SCHEDULES:
        near = did_you_mean(str(name), SCHEDULES)
        raise BadInput(f"growth.schedule: unknown schedule '{name}'{near} {known}")
    return SCHEDULES[name](**table)
