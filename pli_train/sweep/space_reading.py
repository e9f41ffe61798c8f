"""Read a search space from a TOML file, a preset, or the arguments of a command line."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.run_format.study_folder import RULE, SEED
from pli_train.sweep.schedule_rule import NAMES as RULE_NAMES
from pli_train.sweep.schedule_rule import ScheduleRule
from pli_train.sweep.space import Parameter, Space, with_seeds

SPACES = files("pli_train.sweep") / "spaces"
TOP = ("description", "base", "set", "space", "baseline", "seeds")
RANGE = ("low", "high", "log", "step", "when")
CHOICES = ("choices", "when")
DEEPEST = 10**9
"""Depth with which a schedule rule is checked before the base config is read."""
GRID_OPTIONS = "--grid KEY=A,B or --seeds K"
"""Options with which `pli-train sweep` accepts a config instead of a space."""


def from_words(
    source: str, grid: Sequence[str], seeds: int, overrides: Sequence[str], options: str = GRID_OPTIONS
) -> Space:
    """Return the space of a command line: a grid over a preset or config file, or a search space. Raises BadInput.

    Args:
        source: name or file: of a config with `grid` or `seeds`, else of a space.
        grid: `KEY=a,b,…` arguments.
        seeds: number of seeds per grid point.
        overrides: `KEY=VALUE` arguments, fixed for all runs.
        options: the options of the command with which it accepts a config.
    """
    if grid or seeds:
        return from_grid(source, grid, seeds, overrides)
    found = load(source, options=options)
    return overridden(found, overrides) if overrides else found


def presets() -> dict[str, str]:
    """Return name → one-line description of each preset space."""
    found = {}
    for path in sorted(SPACES.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".toml"):
            found[path.name.removesuffix(".toml")] = tomllib.loads(path.read_text(encoding="utf-8"))["description"]
    return found


def load(source: str, base: str | None = None, options: str = GRID_OPTIONS) -> Space:
    """Read a space from a TOML file or a preset.

    Args:
        source: path of a file that ends in .toml, or name of a preset.
        base: preset or config file that replaces that of the space.
        options: the options of the command with which it accepts a config.

    Raises:
        BadInput: every mistake, one line each.
    """
    if source.endswith(".toml"):
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise BadInput(f"{path}: cannot be read ({str(error.strerror).lower()})") from None
        except ValueError as error:
            raise BadInput(f"{path}: cannot be read as UTF-8 text ({error})") from None
    elif source in presets():
        text = (SPACES / f"{source}.toml").read_text(encoding="utf-8")
    else:
        raise BadInput(
            f"no space '{source}'{did_you_mean(source, presets())} (spaces: {', '.join(presets())}; a file's name "
            f"ends in .toml; for a preset of runs add {options})"
        )
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{source}: not TOML: {error}") from None
    if _is_config(table):
        raise BadInput(f"{source}: is a config, not a search space; add {options}")
    return from_table(table, source, base)


def from_table(table: Mapping[str, Any], source: str, base: str | None = None) -> Space:
    """Create a space from a parsed table. Raises BadInput with every mistake, one line each, naming `source`."""
    wrong = [f"{key}: unknown key{did_you_mean(key, TOP)}" for key in table if key not in TOP]
    searched = table.get("space", {})
    sections = {name: table.get(name, {}) for name in ("space", "set", "baseline")}
    wrong += [f"{name}: expected a table" for name, value in sections.items() if not isinstance(value, dict)]
    if not isinstance(table.get("base", ""), str):
        wrong.append("base: expected the name of a preset or file")
    seeds = table.get("seeds", 0)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 0:
        wrong.append(f"seeds: expected a whole number, got {seeds!r}")
    if wrong:
        raise BadInput(*(f"{source}: {mistake}" for mistake in wrong))
    rule = searched.get("schedule", {})
    if not isinstance(rule, dict):
        raise BadInput(f"{source}: space.schedule: expected a table with {', '.join(RULE_NAMES)}")
    fixed_rule = {name: value for name, value in rule.items() if not isinstance(value, list | dict)}
    wrong += [f"space.schedule.{n}: unknown key{did_you_mean(n, RULE_NAMES)}" for n in rule if n not in RULE_NAMES]
    parameters: list[Parameter] = []
    entries = _flat({key: value for key, value in searched.items() if key != "schedule"})
    entries |= {RULE + name: value for name, value in rule.items() if name not in fixed_rule}
    for name, domain in entries.items():
        try:
            parameters.append(_parameter(name, domain))
        except BadInput as error:
            wrong += error.mistakes
    ordered, unordered = _in_order(parameters)
    wrong += unordered
    if not entries and not seeds and not wrong:
        wrong.append("space: is empty; add at least one config key with its values or range")
    if wrong:
        raise BadInput(*(f"{source}: {mistake}" for mistake in wrong))
    if seeds and any(parameter.name == SEED for parameter in ordered):
        raise BadInput(f"{source}: space.seed: is also set by `seeds`; remove one of them")
    if seeds:
        ordered = with_seeds(ordered, seeds)
    found = Space(
        name=Path(source).stem,
        base=base or table.get("base", "tiny"),
        fixed=_flat(table.get("set", {}), values=True),
        rule=fixed_rule,
        parameters=tuple(ordered),
        baseline=_flat(table.get("baseline", {}), values=True),
        seeds=seeds,
    )
    if wrong := _rule_mistakes(found):
        raise BadInput(*(f"{source}: {mistake}" for mistake in wrong))
    return found


def from_grid(base: str, grid: Sequence[str], seeds: int, fixed: Sequence[str] = ()) -> Space:
    """Create a grid of variants × seeds from `KEY=a,b,…` arguments. Raises BadInput for malformed ones."""
    parameters = []
    for word in grid:
        name, equals, text = word.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise BadInput(f"--grid {word}: not KEY=VALUE,VALUE (for example --grid optim.lr=1e-3,2e-3)")
        values = _values(text)  # of a key such as growth.schedule they may be tables, which cannot be hashed
        parameters.append(Parameter(name.strip(), tuple(v for i, v in enumerate(values) if v not in values[:i])))
    if any(parameter.name == SEED for parameter in parameters):
        raise BadInput("--grid seed=…: seeds are not a variant; use --seeds K, and --set seed=S for the first one")
    if twice := {p.name for p in parameters if [q.name for q in parameters].count(p.name) > 1}:
        raise BadInput(f"--grid {', '.join(sorted(twice))}: given twice; list all values of a key in one option")
    found = Space(
        name=Path(base).stem,
        base=base,
        parameters=tuple(with_seeds(parameters, max(seeds, 1))),
        seeds=max(seeds, 1),
    )
    return overridden(found, fixed)


def assigned(words: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Return key → value of `KEY=VALUE` arguments. Raises BadInput for malformed ones, naming the option."""
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            example = " (for example --set optim.lr=3e-4)" if option == "--set" else ""
            raise BadInput(f"{option} {word}: not KEY=VALUE{example}")
        found[name.strip()] = _value(text)
    return found


def overridden(space: Space, words: Sequence[str]) -> Space:
    """Return the space with these `KEY=VALUE` fixed. A fixed `seed` is the first seed of a grid.

    Raises:
        BadInput: when one of the keys is searched.
    """
    fixed = assigned(words)
    counted = {SEED} if space.seeds else set()
    if both := [p.name for p in space.parameters if p.name in fixed and p.name not in counted]:
        raise BadInput(f"--set {both[0]}: is searched by {space.name}; remove it from --set or from the space")
    return replace(space, fixed={**space.fixed, **fixed})


def _rule_mistakes(space: Space) -> list[str]:
    """Return what is wrong with the values of the schedule rule, as far as it does not depend on the base config."""
    wrong: dict[str, None] = {}
    for chosen in space.examples():
        sampled = {name.removeprefix(RULE): value for name, value in chosen.items() if name.startswith(RULE)}
        if rule := {**space.rule, **sampled}:
            try:
                ScheduleRule.of({"start_depth": 0, "depth": DEEPEST, **rule})
            except BadInput as error:
                wrong |= dict.fromkeys(error.mistakes)
    return list(wrong)


def _is_config(table: Mapping[str, Any]) -> bool:
    """Whether a parsed file is the config of a run: it has sections of a config, and none of a space."""
    from pli_train.config.schema import RunConfig

    sections = [key for key, value in table.items() if key in RunConfig.model_fields and isinstance(value, dict)]
    return not {"base", "space"} & table.keys() and bool(sections or "extends" in table)


def _values(text: str) -> list[Any]:
    try:
        return tomllib.loads(f"v = [{text}]")["v"]
    except tomllib.TOMLDecodeError:
        return [_value(part) for part in text.split(",")]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _flat(table: Mapping[str, Any], prefix: str = "", values: bool = False) -> dict[str, Any]:
    """Return dotted key → value. A table is a value if it is a domain; with `values`, only if it is empty."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        is_section = isinstance(value, dict) and value and (values or not {"low", "high", "choices"} & value.keys())
        found |= _flat(value, f"{prefix}{key}.", values) if is_section else {prefix + key: value}
    return found


def _parameter(name: str, domain: Any) -> Parameter:
    """Read one entry of [space]. Raises BadInput."""
    if isinstance(domain, list):
        domain = {"choices": domain}
    if not isinstance(domain, dict):
        domain = {"choices": [domain]}
    known = CHOICES if "choices" in domain else RANGE
    if unknown := [key for key in domain if key not in known]:
        raise BadInput(f"space.{name}: unknown key '{unknown[0]}'{did_you_mean(unknown[0], known)}")
    when = domain.get("when", {})
    if not isinstance(when, dict):
        raise BadInput(f'space.{name}: when: expected {{ "KEY" = [VALUES] }}')
    conditions = {key: tuple(v if isinstance(v, list) else [v]) for key, v in _flat(when, values=True).items()}
    if "choices" in domain:
        choices = domain["choices"]
        if not isinstance(choices, list) or not choices:
            raise BadInput(f"space.{name}: no values; list at least one")
        return Parameter(name, tuple(choices), when=conditions)
    low, high, step, log = (domain.get(key) for key in ("low", "high", "step", "log"))
    numbers = {"low": low, "high": high} | ({} if step is None else {"step": step})
    for key, number in numbers.items():
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise BadInput(f"space.{name}: {key}: expected a number, got {number!r}")
    if low > high or (step is not None and step <= 0) or (log and low <= 0) or (log and step is not None):
        raise BadInput(
            f"space.{name}: no range: low {low} to high {high}"
            f"{', log' if log else ''}{'' if step is None else f', step {step}'} "
            "(low ≤ high, step > 0; with log, low > 0 and no step)"
        )
    return Parameter(name, low=low, high=high, log=bool(log), step=step, when=conditions)


def _in_order(parameters: Sequence[Parameter]) -> tuple[list[Parameter], list[str]]:
    """Return the parameters, each after those that it depends on, and mistakes in their conditions."""
    names = {parameter.name: parameter for parameter in parameters}
    wrong = [
        f"space.{p.name}: when: '{key}' is not in the space{did_you_mean(key, names)}"
        for p in parameters
        for key in p.when
        if key not in names
    ]
    if wrong:
        return [], wrong
    wrong = [
        f"space.{p.name}: when: {key} is never {value!r}"
        for p in parameters
        for key, value in itertools.chain.from_iterable(((k, v) for v in vs) for k, vs in p.when.items())
        if names[key].choices and value not in names[key].choices
    ]
    ordered: list[Parameter] = []
    while len(ordered) < len(parameters):
        there = {parameter.name for parameter in ordered}
        ready = [p for p in parameters if p.name not in there and set(p.when) <= there]
        if not ready:
            rest = ", ".join(p.name for p in parameters if p.name not in there)
            return [], [*wrong, f"space: the conditions of {rest} are circular"]
        ordered += ready
    return ordered, wrong
