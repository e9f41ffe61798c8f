"""Named growth schedules, each from a paper: one file per schedule.

A schedule takes a model's initial shape (depth, heads, FFN units) and returns operator tables as in a config. It does
not import torch and does not grow a model itself.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Any

from pli_train.core import plugins
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.growth.schedules.named import NamedSchedule


def _found() -> dict[str, type[NamedSchedule]]:
    """Return every class in this folder's modules that sets its `name`."""
    schedules = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, NamedSchedule) and value.__module__ == module.name:
                name = value.model_fields["name"].default
                if isinstance(name, str):
                    schedules[name] = value
    return schedules


SCHEDULES: dict[str, type[NamedSchedule]] = _found()
"""Name in a config → schedule. Plugins add more: see `every`."""


def every() -> dict[str, type[NamedSchedule]]:
    """Return all schedules by name, also those of plugins. Warns of plugins that cannot be imported."""
    return plugins.every(SCHEDULES, plugins.SCHEDULES, NamedSchedule)


def schedule_of(name: str) -> type[NamedSchedule]:
    """Return the schedule of this name.

    Raises:
        BadInput: if there is none.
        PliError: if it is of a package that cannot be imported.
    """
    schedule: type[NamedSchedule] | None = plugins.find(name, SCHEDULES, plugins.SCHEDULES, NamedSchedule)
    if schedule is None:
        raise BadInput(f"growth.schedule: unknown schedule '{name}'{did_you_mean(name, _names())} {_known()}")
    return schedule


def read(table: dict[str, Any]) -> NamedSchedule:
    """Read a schedule from a config's table.

    >>> read({"name": "g-stack", "at": 0.1}).events(depth=1, heads=None, units=None, total_steps=None)[0]
    {'operator': 'insert', 'at': 0.1, 'index': 1, 'donor': 'a'}

    Raises:
        BadInput: when `name` is missing or unknown.
        PliError: if it is of a package that cannot be imported.
        pydantic.ValidationError: when another field is invalid.
    """
    name = table.get("name")
    if name is None:
        raise BadInput(f"growth.schedule: name is missing {_known()}")
    return schedule_of(str(name))(**table)


def _names() -> list[str]:
    return [*SCHEDULES, *plugins.found(plugins.SCHEDULES, SCHEDULES)]


def _known() -> str:
    return f"(known: {', '.join(_names())})"
