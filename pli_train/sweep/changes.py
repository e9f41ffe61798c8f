"""The base config of a study, and changes to it by dotted keys."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from pli_train.config import loading
from pli_train.core.errors import BadInput
from pli_train.core.run_format.study_folder import BASELINE, RULE, SEED

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig
    from pli_train.sweep.space import Space

SCHEDULE, HEADS = "growth.schedule", "model.initial_heads"
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


def named_trial(space: Space, arm: str, chosen: Mapping[str, Any]) -> str:
    """Return the words that name a trial in error lines."""
    values = ", ".join(f"{key} = {value!r}" for key, value in chosen.items()) or "the base's values"
    return f"{space.name}: {arm} trial with {values}"


def plain_changes(space: Space, arm: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config keys that a trial changes, without those that depend on the depth of the model or the seed."""
    changes = {key: value for key, value in chosen.items() if key != SEED and not key.startswith(RULE)}
    return {SCHEDULE: "", HEADS: None, **space.baseline, **changes} if arm == BASELINE else changes


def require_values(base: RunConfig, arms: Mapping[str, Space]) -> None:
    """Check the keys and values of each arm's space against the schema of configs, without a corpus and a model.

    The schedules that a rule generates are left out, because they depend on the depth of the model.

    Raises:
        BadInput: with every mistake found.
    """
    wrong: dict[str, None] = {}
    for arm, space in arms.items():
        for chosen in space.examples():
            by_rule = bool(space.rule) or any(key.startswith(RULE) for key in chosen)
            changes = ({SCHEDULE: ""} if by_rule else {}) | plain_changes(space, arm, chosen)
            try:
                changed(base, changes, named_trial(space, arm, chosen))
            except BadInput as error:
                wrong |= dict.fromkeys(error.mistakes)
    if wrong:
        raise BadInput(*wrong)


def _put(table: dict[str, Any], key: str, value: Any, source: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise BadInput(f"{source}: {key}: '{section}' is a value, not a section")
    table[last] = deepcopy(value)
