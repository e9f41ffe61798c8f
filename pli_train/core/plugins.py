"""Plugins: find what other installed packages add, by their entry points.

A package names its plugins in its `pyproject.toml`, by group:

    [project.entry-points."pli_analysis.metrics"]
    weight-norms = "my_package:weight_norms"

Listing the plugins of a group imports no package; a plugin is imported when it is used.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pli_train.core.errors import PliError, first_line

OPERATORS, SCHEDULES, CORPORA = "pli_train.operators", "pli_train.schedules", "pli_train.corpora"
METRICS = "pli_analysis.metrics"
KINDS = {OPERATORS: "operator", SCHEDULES: "schedule", CORPORA: "corpus", METRICS: "metric"}
"""Group of entry points → what its plugins are."""
KEYS = ("group", "name", "package", "version")
"""What `run.json` holds of a plugin."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugin:
    """A plugin of an installed package.

    Attributes:
        group: group of entry points, one of `KINDS`.
        name: name of the entry point.
        package, version: name and version of the package.
        entry: the entry point.
    """

    group: str
    name: str
    package: str
    version: str
    entry: EntryPoint = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{KINDS[self.group]} '{self.name}' of {self.package} {self.version}"

    def load(self, base: Any) -> Any:
        """Import the plugin.

        Args:
            base: class that the plugin must be an instance or a subclass of.

        Raises:
            PliError: if the package cannot be imported, or its object is of another class.
        """
        try:
            found = self.entry.load()
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise PliError(f"{self}: cannot be imported ({reason}); update or uninstall {self.package}") from error
        if isinstance(found, base) or (isinstance(found, type) and issubclass(found, base)):
            return found
        raise PliError(
            f"{self}: {self.entry.value} is not of the class {base.__name__}; update or uninstall {self.package}"
        )

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Raise PliError, in one line that names the package, for an error of the plugin's own code."""
        try:
            yield
        except PliError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise PliError(f"{self} failed ({reason}); --verbose shows where") from error


def found(group: str, taken: Collection[str] = ()) -> dict[str, Plugin]:
    """Return name → plugin of a group, by name, without importing them.

    Plugins that cannot be used are left out with a warning, once per process.

    Args:
        group: one of `KINDS`.
        taken: names that plugins cannot have, as the project itself uses them.
    """
    plugins = _installed(group, tuple(sys.path))
    for name in sorted(plugins.keys() & set(taken)):
        warn(f"{plugins[name]}: left out, as pli itself uses this name")
    return {name: plugin for name, plugin in plugins.items() if name not in taken}


@cache
def _installed(group: str, path: tuple[str, ...]) -> dict[str, Plugin]:
    """Return name → plugin of the packages on `sys.path`."""
    usable: dict[str, Plugin] = {}
    for plugin in sorted((_plugin(entry) for entry in entry_points(group=group)), key=lambda one: (one.name, str(one))):
        if not _NAME.fullmatch(plugin.name):
            warn(f"{plugin}: left out, as its name is not made of a-z, 0-9 and hyphens")
        elif plugin.name in usable:
            warn(f"{plugin}: left out, as {usable[plugin.name]} has the same name")
        else:
            usable[plugin.name] = plugin
    return usable


@cache
def warn(line: str) -> None:
    """Log a warning, once per process."""
    _log.warning("%s", line)


def _plugin(entry: EntryPoint) -> Plugin:
    package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("an unknown package", "")
    return Plugin(entry.group, entry.name, package, version, entry)


def find(name: str, own: Mapping[str, Any], group: str, base: Any) -> Any:
    """Return what has this name: one of the project's own things, or an imported plugin; None if there is none.

    Args:
        name: the name.
        own: the project's own things of this kind, by name.
        group: group of the plugins.
        base: as for `Plugin.load`, which raises PliError.
    """
    if name in own:
        return own[name]
    plugin = found(group, own).get(name)
    return None if plugin is None else plugin.load(base)


def every(own: Mapping[str, Any], group: str, base: Any) -> dict[str, Any]:
    """Return the project's own things of a kind and all plugins, by name. Warns of plugins that cannot be imported."""
    usable = dict(own)
    for name, plugin in found(group, own).items():
        try:
            usable[name] = plugin.load(base)
        except PliError as error:
            warn(str(error))
    return usable


# --- the record of a run ----------------------------------------------------------------------------------------------


def record(plugins: Iterable[Plugin]) -> list[dict[str, str]]:
    """Return the plugins that a run uses, as `run.json` holds them."""
    return [{key: getattr(plugin, key) for key in KEYS} for plugin in plugins]


def missing(recorded: Any) -> list[str]:
    """Return one line for each plugin of a run that is not installed.

    Args:
        recorded: the value of `plugins` in `run.json`, of any type.
    """
    return [
        f"{KINDS[each.group]} '{each.name}' is of {each.package} {each.version}, which is not installed; "
        f"install it with: pip install {each.package}"
        for each in _recorded(recorded)
        if each.name not in found(each.group)
    ]


def changed(recorded: Any) -> list[str]:
    """Return one line for each plugin of a run that is installed, but of another package or version than recorded."""
    both = [(each, found(each.group).get(each.name)) for each in _recorded(recorded)]
    return [
        f"the run began with {before}, and now uses {now.package} {now.version}"
        for before, now in both
        if now is not None and (now.package, now.version) != (before.package, before.version)
    ]


def _recorded(value: Any) -> list[Plugin]:
    entries = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    return [_of_record(each) for each in entries if str(each.get("group")) in KINDS]


def _of_record(entry: dict[str, Any]) -> Plugin:
    group, name, package, version = (str(entry.get(key)) for key in KEYS)
    return Plugin(group, name, package, version, EntryPoint(name, "", group))
