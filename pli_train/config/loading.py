"""Load a configuration from TOML, with one line for each mistake.

A file may set `extends = "tiny"` to start from a preset or another file in its folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pli_train.config.keys import keys
from pli_train.config.schema import RunConfig
from pli_train.core import plugins
from pli_train.core.anatomy import family
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.run_format import run_folder
from pli_train.growth import schedule as growth_schedule
from pli_train.growth.config import GrowthConfig
from pli_train.growth.initial_shape import InitialShape
from pli_train.section import lines_of

PRESETS = files("pli_train.config") / "presets"
DEFAULT_PRESET = "tiny"


def presets() -> dict[str, str]:
    """Return the presets: name → one-line description."""
    descriptions = {}
    for path in sorted(PRESETS.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".toml"):
            descriptions[path.name.removesuffix(".toml")] = tomllib.loads(path.read_text(encoding="utf-8"))[
                "description"
            ]
    return descriptions


def load(source: str = DEFAULT_PRESET, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a preset or a TOML file, apply `section.key=value` overrides, and check the result.

    An override without a value (`section.key=`) removes the key, so that it has its default.

    Raises:
        BadInput: if the config is invalid: one line per mistake, with the file, the key and the most similar valid key.
    """
    table = _table(source, seen=())
    named = (override.partition("=") for override in overrides)
    if any(key.strip() == "model.name_or_path" and value.strip() for key, _, value in named):
        _drop_model(table, {"name_or_path": None})
    for override in overrides:
        _apply(override, table)
    table.setdefault("name", Path(source).stem)
    return check(table, source)


def of_run(run: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the config of a run's folder, with overrides.

    Raises:
        BadInput: if the folder is not a run's, or a plugin that the run uses is not installed.
    """
    path = run_folder.require_run(run) / run_folder.RUN
    record = run_folder.read_record(run)
    table = record.get("config")
    if not isinstance(table, dict):
        raise BadInput(f"{path}: holds no config")
    if lacking := plugins.missing(record.get("plugins")):
        raise BadInput(*(f"{path}: {line}" for line in lacking))
    for override in overrides:
        _apply(override, table)
    return check(table, str(path))


def from_table(table: dict[str, Any], source: str) -> RunConfig:
    """Return the config of a parsed TOML table, which may have `extends`. Raises BadInput naming `source`."""
    return check(_with_parent(run_folder.with_current_keys(table), source, seen=(source,), beside=None), source)


def growth_alone(table: dict[str, Any]) -> GrowthConfig:
    """Return a [growth] section without a run. Raises BadInput with the same lines as for a run."""
    try:
        return GrowthConfig(**table)
    except ValidationError as error:
        raise BadInput(*lines_of(error, GrowthConfig, prefix="growth: ")) from None


def check(table: dict[str, Any], source: str) -> RunConfig:
    """Return the typed config of a parsed table. Raises BadInput naming `source`."""
    try:
        config = RunConfig(**table)
        if config.model.initial_layers is not None:
            lowest = family(config.model.family).first_index if config.model.family else 0
            start = InitialShape(config.model.initial_layers, first_index=lowest, block_size=config.train.block_size)
            growth_schedule.plan(config.growth.events(start, config.train.steps), start, config.train.steps)
    except ValidationError as error:
        raise BadInput(*lines_of(error, RunConfig, prefix=f"{source}: ")) from None
    except BadInput as error:
        raise BadInput(*(f"{source}: {mistake}" for mistake in error.mistakes)) from None
    return config


def _table(source: str, seen: tuple[str, ...], beside: Path | None = None) -> dict[str, Any]:
    if source in seen:
        raise BadInput(f"{source}: extends itself ({' → '.join([*seen, source])})")
    if source.endswith(".toml"):
        path = Path(source) if beside is None else beside / source
        try:
            text = path.read_text(encoding="utf-8-sig")  # some editors write a byte-order mark
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({str(error.strerror).lower()})") from None
        except ValueError as error:
            raise BadInput(f"{path}: cannot be read as UTF-8 text ({error})") from None
        beside = path.parent
    elif source in presets():
        text = (PRESETS / f"{source}.toml").read_text(encoding="utf-8")
    else:
        raise BadInput(
            f"no preset '{source}'{did_you_mean(source, presets())} "
            f"(presets: {', '.join(presets())}; a file name must end in .toml)"
        )
    try:
        table = run_folder.with_current_keys(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{source}: not TOML: {error}") from None
    return _with_parent(table, source, seen, beside)


def _with_parent(table: dict[str, Any], source: str, seen: tuple[str, ...], beside: Path | None) -> dict[str, Any]:
    """Merge a table over the one that it `extends`, if any."""
    parent = table.pop("extends", None)
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise BadInput(f"{source}: extends: expected the name of a preset or file, got {parent!r}")
    inherited = {**_table(parent, (*seen, source), beside), "name": Path(source).stem}
    _drop_model(inherited, table.get("model", {}))
    return _merge(inherited, table)


def _drop_model(table: dict[str, Any], over: Any) -> None:
    """Remove the model settings of `table` if `over` selects another model.

    The sizes at step 0 are removed too if `over` names an existing model, which has its own.
    """
    if not isinstance(over, dict) or not {"family", "name_or_path"} & over.keys():
        return
    removed = {"family", "name_or_path", "config"}
    if "name_or_path" in over:
        removed |= {"initial_layers", "initial_heads"}
    table["model"] = {key: value for key, value in table.get("model", {}).items() if key not in removed}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(override: str, table: dict[str, Any]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set {override}: not KEY=VALUE (for example --set optim.lr=3e-4)")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *sections, last = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise BadInput(f"--set {override}: '{section}' is a value, not a section")
    last = run_folder.RENAMED.get(last, last)
    if not text.strip() and (last in table or _is_key([*sections, last])):
        table.pop(last, None)
    else:
        table[last] = run_folder.with_current_keys(value)


def _is_key(names: list[str]) -> bool:
    """Return whether a config may have this key. The fields of `model.config` are checked with the model."""
    return names[:2] == ["model", "config"] or ".".join(names) in {row["key"] for row in keys(RunConfig)}
