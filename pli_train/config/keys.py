"""List the keys of a config with type, default and meaning, and write a config as TOML."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from pli_train.config.schema import RunConfig

WORDS = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "table", list: "list", tuple: "list"}
"""Python type → TOML type."""


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[dict[str, Any]]:
    """Yield `key`, `type`, `default` (None: not set) and `meaning` of each key, section by section."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield {
                "key": prefix + name,
                "type": type_of(kind),
                "default": _default(field),
                "meaning": field.description or "",
            }


def type_of(kind: Any) -> str:
    """Return the type of a key in words; the values themselves if there are few.

    >>> type_of(int | None), type_of(typing.Literal["a", "b"]), type_of(str | list[dict[str, int]])
    ('integer', 'a, b', 'string or list')
    """
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return ", ".join(typing.get_args(kind))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_of(each) for each in typing.get_args(kind) if each is not type(None))
    return WORDS[origin or kind]


def _default(field: FieldInfo) -> str | None:
    """Return a default as TOML writes it; None if there is none."""
    if field.is_required() or field.default is None:
        return None
    if field.default == {}:
        return "{}"
    if isinstance(field.default, tuple):
        return f'["{field.default[0]}", …]'
    return tomli_w.dumps({"value": field.default}).removeprefix("value = ").strip()


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of config files, for editors: no key is required, as a file may extend another one."""
    found = model.model_json_schema()
    found.pop("required", None)
    extends = {"type": "string", "description": "preset, or file in the same folder, whose settings this file changes"}
    found["properties"] = {"extends": extends, **found["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def to_toml(config: RunConfig) -> str:
    """Return a complete config as TOML, which `pli-train run` reads."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """Leave out keys without a value, as TOML has no null; without a value is their default."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }
