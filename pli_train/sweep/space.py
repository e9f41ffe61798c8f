"""The search space of a sweep: parameters with values, ranges and conditions."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput, did_you_mean
from pli_train.sweep.schedule_rule import NAMES as RULE_NAMES

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SPACES = files("pli_train.sweep") / "spaces"
RULE = "schedule."
"""Prefix of the parameter names of a schedule rule."""
SEED = "seed"
RATE = "optim.lr"
AROUND = 4.0
"""If the space has no learning rate, the baseline's is tuned from the base's ÷ AROUND to the base's × AROUND."""
TOP = ("description", "base", "set", "space", "baseline", "seeds")
RANGE = ("low", "high", "log", "step", "when")
CHOICES = ("choices", "when")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a space.

    Attributes:
        name: a config key, `schedule.…` for a schedule rule, or `seed`.
        choices: list of values; empty for a range.
        low, high, log, step: the range, if there are no choices; integers if `low` and `high` are.
        when: other parameter → values. The parameter exists only if each of them has one of these values.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @staticmethod
    def label(value: Any) -> Any:
        """Return a choice in Optuna's form: lists and tables become text."""
        return value if isinstance(value, bool | int | float | str) else str(value)

    @property
    def labels(self) -> dict[Any, Any]:
        """Choice in Optuna's form → choice."""
        return {self.label(value): value for value in self.choices}

    def suggest(self, trial: BaseTrial) -> Any:
        """Ask Optuna for a value."""
        if self.choices:
            return self.labels[trial.suggest_categorical(self.name, list(self.labels))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def examples(self) -> tuple[Any, ...]:
        """Return values to check before a study starts: all choices, or both ends of a range; of seeds, the first."""
        return self.choices[:1] if self.name == SEED else self.choices or (self.low, self.high)

    def to_table(self) -> dict[str, Any]:
        """Return the form in study.json."""
        table: dict[str, Any] = (
            {"choices": list(self.choices)} if self.choices else {"low": self.low, "high": self.high}
        )
        if not self.choices:
            table |= {"log": self.log} | ({"step": self.step} if self.step else {})
        return table | ({"when": {name: list(values) for name, values in self.when.items()}} if self.when else {})


@dataclass(frozen=True)
class Space:
    """The parameters that a study varies, and those that are fixed.

    Attributes:
        name: name of the space's file or preset.
        base: preset or config file of the runs.
        fixed: config key → value, for all runs.
        rule: fixed values of the schedule rule.
        parameters: searched parameters, each after those in its conditions.
        baseline: config key → value that the baseline changes in the full-depth base config.
        seeds: number of seeds per grid point; 0 if the space is searched.
    """

    name: str
    base: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    baseline: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 0

    def to_table(self) -> dict[str, Any]:
        """Return the form in study.json."""
        return {
            "set": dict(self.fixed),
            "schedule": dict(self.rule),
            "parameters": {parameter.name: parameter.to_table() for parameter in self.parameters},
            "baseline": dict(self.baseline),
            "seeds": self.seeds,
        }

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Return parameter → value of a trial; the same values when called again for the same trial."""
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if _applies(parameter, chosen):
                chosen[parameter.name] = parameter.suggest(trial)
        return chosen

    def grid(self) -> list[dict[str, Any]]:
        """Return all combinations of choices that meet the conditions. Raises BadInput when a parameter has a range."""
        if ranges := [parameter.name for parameter in self.parameters if not parameter.choices]:
            raise BadInput(f"{self.name}: {', '.join(ranges)}: a grid needs a list of values, not a range")
        points: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            points = [
                point | ({parameter.name: value} if value is not _ABSENT else {})
                for point in points
                for value in (parameter.choices if _applies(parameter, point) else (_ABSENT,))
            ]
        return points

    def labeled(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return a grid point in Optuna's form."""
        parameters = {parameter.name: parameter for parameter in self.parameters}
        return {name: parameters[name].label(value) for name, value in point.items()}

    def of_baseline(self, rate: float, lowest: float = 0.0) -> Space:
        """Return the space of the baseline: the optimizer parameters and the seed.

        The learning rate is always tuned. If the space does not contain it, a search uses a range around that of the
        base config, and a grid as many values as there are growth variants, so that both arms have equally many runs.

        Args:
            rate: learning rate of the base config.
            lowest: lower bound of the learning rate.
        """
        kept = [p for p in self.parameters if p.name.startswith("optim.") or p.name == SEED]
        names = {parameter.name for parameter in kept}
        kept = [parameter for parameter in kept if set(parameter.when) <= names]
        if RATE not in names and RATE not in self.baseline:
            low, high = max(rate / AROUND, lowest), rate * AROUND
            if not self.is_grid:
                kept.append(Parameter(RATE, low=low, high=high, log=True))
            elif (count := len(self.grid()) // max(self.seeds, 1) // _count(kept)) > 1:
                ratios = [number / (count - 1) for number in range(count)]
                kept.append(Parameter(RATE, tuple(float(f"{low * (high / low) ** at:.4g}") for at in ratios)))
        return replace(self, parameters=tuple(kept), rule={})

    @property
    def is_grid(self) -> bool:
        """Whether all grid points are run, instead of a search."""
        return self.seeds > 0

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yield combinations that contain each value of each parameter, to check before a study starts."""
        for parameter in self.parameters:
            for value in parameter.examples():
                wanted = {name: values[0] for name, values in parameter.when.items()} | {parameter.name: value}
                chosen: dict[str, Any] = {}
                for other in self.parameters:
                    if _applies(other, chosen) or other.name in wanted:
                        chosen[other.name] = wanted.get(other.name, other.examples()[0])
                yield chosen
        if not self.parameters:
            yield {}


_ABSENT = object()


def _count(parameters: Sequence[Parameter]) -> int:
    """Return the number of grid points of parameters without conditions, not counting seeds."""
    return math.prod(len(parameter.choices) for parameter in parameters if parameter.name != SEED)


def _applies(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    return all(chosen.get(name, _ABSENT) in values for name, values in parameter.when.items())


def presets() -> dict[str, str]:
    """Return name → one-line description of each preset space."""
    found = {}
    for path in sorted(SPACES.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".toml"):
            found[path.name.removesuffix(".toml")] = tomllib.loads(path.read_text(encoding="utf-8"))["description"]
    return found


def load(source: str, base: str | None = None) -> Space:
    """Read a space from a TOML file or a preset.

    Args:
        source: path of a file that ends in .toml, or name of a preset.
        base: preset or config file that replaces that of the space.

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
            "ends in .toml; for a preset of runs add --grid or --seeds)"
        )
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"{source}: not TOML: {error}") from None
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
    found: list[Parameter] = []
    entries = _flat({key: value for key, value in searched.items() if key != "schedule"})
    entries |= {RULE + name: value for name, value in rule.items() if name not in fixed_rule}
    for name, domain in entries.items():
        try:
            found.append(_parameter(name, domain))
        except BadInput as error:
            wrong += error.mistakes
    ordered, unordered = _in_order(found)
    wrong += unordered
    if not entries and not seeds and not wrong:
        wrong.append("space: is empty; add at least one config key with its values or range")
    if wrong:
        raise BadInput(*(f"{source}: {mistake}" for mistake in wrong))
    if seeds:
        ordered = with_seeds(ordered, seeds)
    return Space(
        name=Path(source).stem,
        base=base or table.get("base", "tiny"),
        fixed=_flat(table.get("set", {}), values=True),
        rule=fixed_rule,
        parameters=tuple(ordered),
        baseline=_flat(table.get("baseline", {}), values=True),
        seeds=seeds,
    )


def from_grid(base: str, grid: Sequence[str], seeds: int, fixed: Sequence[str] = ()) -> Space:
    """Create a grid of variants × seeds from `KEY=a,b,…` arguments. Raises BadInput for malformed ones."""
    parameters = []
    for word in grid:
        name, equals, text = word.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise BadInput(f"--grid {word}: not KEY=VALUE,VALUE (for example --grid optim.lr=1e-3,2e-3)")
        parameters.append(Parameter(name.strip(), tuple(dict.fromkeys(_values(text)))))
    if twice := {p.name for p in parameters if [q.name for q in parameters].count(p.name) > 1}:
        raise BadInput(f"--grid {', '.join(sorted(twice))}: given twice; list all values of a key in one option")
    return Space(
        name=Path(base).stem,
        base=base,
        fixed=assigned(fixed),
        parameters=tuple(with_seeds(parameters, max(seeds, 1))),
        seeds=max(seeds, 1),
    )


def with_seeds(parameters: Sequence[Parameter], seeds: int) -> list[Parameter]:
    """Return the parameters, preceded by the seed: 0 to `seeds` - 1, added to the base seed."""
    return [Parameter(SEED, tuple(range(seeds))), *parameters]


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
    """Return the space with these `KEY=VALUE` fixed. Raises BadInput when one of the keys is searched."""
    fixed = assigned(words)
    if both := [parameter.name for parameter in space.parameters if parameter.name in fixed]:
        raise BadInput(f"--set {both[0]}: is searched by {space.name}; remove it from --set or from the space")
    return replace(space, fixed={**space.fixed, **fixed})


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
