"""The search space of a sweep: parameters with their values, ranges and conditions."""

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
"""What the names of a schedule rule's parameters begin with."""
SEED = "seed"
RATE = "optim.lr"
AROUND = 4.0
"""The baseline's learning rate is tuned from the base's ÷ this to the base's × this, where the space does not say."""
TOP = ("description", "base", "set", "space", "baseline", "seeds")
RANGE = ("low", "high", "log", "step", "when")
CHOICES = ("choices", "when")


@dataclass(frozen=True)
class Parameter:
    """One dimension of a space.

    Attributes:
        name: a config key; `schedule.position` and the like for a schedule rule; or `seed`.
        choices: its values where they are listed, else empty.
        low, high, log, step: its range where there are no choices; whole numbers if `low` and `high` are.
        when: other parameter → values. The parameter exists only where each of them has one of these values.
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
        """A choice as Optuna has it, which takes no lists and tables."""
        return value if isinstance(value, bool | int | float | str) else str(value)

    @property
    def labels(self) -> dict[Any, Any]:
        """What Optuna is given for each choice → the choice."""
        return {self.label(value): value for value in self.choices}

    def suggest(self, trial: BaseTrial) -> Any:
        """Ask Optuna for a value."""
        if self.choices:
            return self.labels[trial.suggest_categorical(self.name, list(self.labels))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def examples(self) -> tuple[Any, ...]:
        """Values with which a config is checked before a study starts: all choices, or both ends; one seed of all."""
        return self.choices[:1] if self.name == SEED else self.choices or (self.low, self.high)

    def to_table(self) -> dict[str, Any]:
        """The form in study.json."""
        table: dict[str, Any] = (
            {"choices": list(self.choices)} if self.choices else {"low": self.low, "high": self.high}
        )
        if not self.choices:
            table |= {"log": self.log} | ({"step": self.step} if self.step else {})
        return table | ({"when": {name: list(values) for name, values in self.when.items()}} if self.when else {})


@dataclass(frozen=True)
class Space:
    """What a study varies.

    Attributes:
        name: of the space's file or preset.
        base: preset or config file of the runs.
        fixed: config key → value, for all runs.
        rule: values of the schedule rule that are not searched.
        parameters: what is searched, each after those that its conditions name.
        baseline: config key → value: how the baseline differs from the base at full depth.
        seeds: runs of each variant, where the whole grid is run; 0 where the space is searched.
    """

    name: str
    base: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()
    baseline: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 0

    def to_table(self) -> dict[str, Any]:
        """The form in study.json."""
        return {
            "set": dict(self.fixed),
            "schedule": dict(self.rule),
            "parameters": {parameter.name: parameter.to_table() for parameter in self.parameters},
            "baseline": dict(self.baseline),
            "seeds": self.seeds,
        }

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Parameter → value of a trial. Asking again for the same trial gives the same values."""
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if _applies(parameter, chosen):
                chosen[parameter.name] = parameter.suggest(trial)
        return chosen

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of choices, conditions regarded. Raises BadInput when a parameter has a range."""
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
        """A point of the grid as Optuna has it."""
        parameters = {parameter.name: parameter for parameter in self.parameters}
        return {name: parameters[name].label(value) for name, value in point.items()}

    def of_baseline(self, rate: float, lowest: float = 0.0) -> Space:
        """The space of the model without growth: the parameters of the optimizer, and the seed.

        The learning rate is always tuned. Where the space does not search it, a search takes it from a range around
        the base's, and a grid takes as many values as there are growth variants, so that both have equally many runs.

        Args:
            rate: the base's learning rate.
            lowest: learning rate that can be had at least.
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
        """Whether every point is run, and nothing is searched."""
        return self.seeds > 0

    def examples(self) -> Iterator[dict[str, Any]]:
        """Combinations in which each value of each parameter occurs, to be checked before a study starts."""
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
    """Points of a grid of parameters without conditions, the seeds aside."""
    return math.prod(len(parameter.choices) for parameter in parameters if parameter.name != SEED)


def _applies(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    return all(chosen.get(name, _ABSENT) in values for name, values in parameter.when.items())


def presets() -> dict[str, str]:
    """Each preset space's name and its one line of description."""
    found = {}
    for path in sorted(SPACES.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".toml"):
            found[path.name.removesuffix(".toml")] = tomllib.loads(path.read_text(encoding="utf-8"))["description"]
    return found


def load(source: str, base: str | None = None) -> Space:
    """Read a space from a TOML file, or a preset.

    Args:
        source: a file's path, which ends in .toml, or a preset's name.
        base: preset or config file to use in place of the one that the space names.

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
    """A space from a parsed table. Raises BadInput with every mistake, one line each, naming `source`."""
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
        wrong.append("space: is empty: name at least one config key with its values or range")
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
    """A grid of variants × seeds from `KEY=a,b,…` words. Raises BadInput for a word that is none."""
    parameters = []
    for word in grid:
        name, equals, text = word.partition("=")
        if not equals or not name.strip() or not text.strip():
            raise BadInput(f"--grid {word}: not KEY=VALUE,VALUE (for example --grid optim.lr=1e-3,2e-3)")
        parameters.append(Parameter(name.strip(), tuple(dict.fromkeys(_values(text)))))
    if twice := {p.name for p in parameters if [q.name for q in parameters].count(p.name) > 1}:
        raise BadInput(f"--grid {', '.join(sorted(twice))}: named twice; give all its values at once")
    return Space(
        name=Path(base).stem,
        base=base,
        fixed=assigned(fixed),
        parameters=tuple(with_seeds(parameters, max(seeds, 1))),
        seeds=max(seeds, 1),
    )


def with_seeds(parameters: Sequence[Parameter], seeds: int) -> list[Parameter]:
    """Parameters, and first of all the number of the seed: 0 up to `seeds` - 1, added to the base's."""
    return [Parameter(SEED, tuple(range(seeds))), *parameters]


def assigned(words: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Key → value of `KEY=VALUE` words. Raises BadInput for a word that is none, naming the option."""
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            example = " (for example --set optim.lr=3e-4)" if option == "--set" else ""
            raise BadInput(f"{option} {word}: not KEY=VALUE{example}")
        found[name.strip()] = _value(text)
    return found


def overridden(space: Space, words: Sequence[str]) -> Space:
    """A space whose runs all have these `KEY=VALUE`. Raises BadInput when one of them is searched."""
    fixed = assigned(words)
    if both := [parameter.name for parameter in space.parameters if parameter.name in fixed]:
        raise BadInput(f"--set {both[0]}: is searched by {space.name}; leave it out here or there")
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
    """Dotted key → value. A table is a value where it holds a domain; with `values`, only where it is empty."""
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
            raise BadInput(f"space.{name}: has no values; list at least one")
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
    """Parameters, each after those that it depends on, and what is wrong with the rest."""
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
            return [], [*wrong, f"space: the conditions of {rest} go in a circle"]
        ordered += ready
    return ordered, wrong
