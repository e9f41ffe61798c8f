"""Sentences about a study: the best strategies, their confirmation, what was pruned or failed, and the cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison.tables import amount
from pli_analysis.metrics.sweep.strategy import INITIAL_LAYERS, describe, setting
from pli_analysis.metrics.sweep.trials import Study, Trial, arms_of, best, label, value_of
from pli_train.core.errors import counted
from pli_train.core.run_format.study_folder import BASELINE, COMPLETE, CONFIRM, FAIL, GROWTH, PRUNED, RULE, RUNNING

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.comparison.group_difference import Estimate
    from pli_analysis.metrics.sweep.confirmation import Confirmation, Confirmed
    from pli_analysis.metrics.sweep.importance import Importance
    from pli_analysis.metrics.sweep.run_logs import Pruning

LISTED = 5
"""Maximum number of pruned or failed trials that are described."""
NAMED = 4
"""Maximum number of parameters whose importance is given in a sentence."""
BEST_GROWTH, BEST_BASELINE = "Best growth strategy", "Best baseline"
INITIALIZER, RATE = "growth.initializer", "optim.lr"
NAMES = {
    INITIALIZER: "initializer",
    "growth.noise": "noise",
    "growth.optimizer_state": "optimizer state of new layers",
    "growth.learning_rate": "learning-rate policy",
    RATE: "learning rate",
}
"""Config key → its name in sentences; other keys are written as they are."""


def objective(study: Study) -> str:
    """Describe the minimized value."""
    budget = study.settings.get("budget")
    return {
        "flops": "final eval loss at equal FLOPs",
        "tokens": "final eval loss at equal tokens",
        "seconds": f"eval loss after {budget:g} s of training" if isinstance(budget, int | float) else "eval loss",
        "area": "mean eval loss over equal FLOPs",
    }.get(study.objective, study.objective)


def value_name(study: Study) -> str:
    """Return a short name of the minimized value, for axes."""
    return {"seconds": "eval loss", "area": "mean eval loss"}.get(study.objective, "final eval loss")


def states(study: Study) -> str:
    """Count the trials by arm and state, such as `34 trials (14 growth, …): 32 complete, 1 pruned, 1 failed`."""
    arms = ", ".join(f"{len(study.of(arm))} {_arm(arm)}" for arm in arms_of(study))
    words = {COMPLETE: "complete", PRUNED: "pruned", FAIL: "failed", RUNNING: "running or interrupted"}
    counts = {state: sum(trial.state == state for trial in study.trials) for state in words}
    each = ", ".join(f"{number} {words[state]}" for state, number in counts.items() if number)
    return f"{study.name}: {counted(len(study.trials), 'trial')} ({arms}): {each}."


def headline(study: Study, confirmed: Confirmation | None) -> str:
    """State the result: of the confirmation trials alone if there are any, or else the biased values of the search."""
    return _confirmed(confirmed) if confirmed else _searched(study)


def best_strategies(study: Study) -> list[str]:
    """Describe the best trial of each arm in the search."""
    lines = []
    if found := best(study.of(GROWTH)):
        lines.append(f"{BEST_GROWTH}: {_found(study, found)} {strategy(study, found[0])}.")
    if found := best(study.of(BASELINE)):
        depth = setting(study, found[0], INITIAL_LAYERS)
        full = f"{counted(depth, 'layer')} from the start" if isinstance(depth, int) else "full depth from the start"
        lines.append(f"{BEST_BASELINE}: {_found(study, found)} has {'; '.join([full, *_settings(study, found[0])])}.")
    return lines


def strategy(study: Study, trial: Trial) -> str:
    """Describe a growth strategy: its schedule, its initializer, and the other sampled parameters."""
    initializer = trial.params.get(INITIALIZER, setting(study, trial, INITIALIZER))
    first = [f"initializer {initializer}"] if isinstance(initializer, str) else []
    return "; ".join([describe(study, trial), *first, *_settings(study, trial, (INITIALIZER,))])


def pruned(found: Sequence[Pruning]) -> list[str]:
    """Describe when trials were pruned, and the losses that they are compared with."""
    return _some([f"{_pruning(each)}." for each in found], "more pruned trial")


def failed(study: Study) -> list[str]:
    """Give the error of each failed trial."""
    lines = [f"{t.name} failed: {t.error or 'no error was recorded'}." for t in study.trials if t.state == FAIL]
    return _some(lines, "more failed trial")


def cost(arms: pd.DataFrame) -> str:
    """State FLOPs and seconds of each arm."""
    clauses = []
    for row in arms.itertuples():
        less = f", without {counted(row.uncounted, 'trial')} whose run is missing" if row.uncounted else ""
        ended = row.complete + row.pruned + row.failed
        which = f"the {counted(ended, 'trial')} that ended" if row.running else "its trials"
        whole = f", {_seconds(row.wall_seconds)} from start to end of {which}" if ended else ""
        clauses.append(
            f"{_arm(row.arm)} {amount(row.flops, col.FLOPS)} FLOPs, {_seconds(row.seconds)} of training{whole}{less}"
        )
    return f"Cost: {'; '.join(clauses)}."


def importance(found: Importance) -> str:
    """State the most important parameters, and which are left out."""
    omitted = "; ".join(f"{name} ({why})" for name, why in found.omitted.items())
    omitted = f" Left out: {omitted}." if omitted else ""
    if found.reason:
        return f"No parameter importance: {found.reason}."
    pairs = list(zip(found.table[col.PARAMETER], found.table[col.IMPORTANCE], strict=True))
    each = ", ".join(f"{name} {value:.2f}" for name, value in pairs[:NAMED])
    more = f", {counted(len(pairs) - NAMED, 'other')}" if len(pairs) > NAMED else ""
    rest = max(0.0, 1 - sum(value for _, value in pairs))
    return (
        f"Parameter importance (fANOVA, share of the variance over {found.trials} complete growth trials): "
        f"{each}{more}; interactions {rest:.2f}.{omitted}"
    )


def missing_arm(study: Study) -> str:
    """State that there is no baseline, or that it has no complete trial; empty if it has."""
    if study.of(BASELINE, COMPLETE):
        return ""
    if study.of(BASELINE):
        return "No baseline trial is complete."
    return (
        "The study has no baseline (--no-baseline)."
        if study.settings.get("baseline") is False
        else ("No baseline trial has started.")
    )


def _searched(study: Study) -> str:
    """Compare the best values of the search, and state their bias."""
    growth, baseline = (best(study.of(arm)) for arm in (GROWTH, BASELINE))
    if not growth and not baseline:
        return "No trial is complete, so there is no result."
    clauses = [f"{arm} {value_of(found):.4f}" for arm, found in ((GROWTH, growth), (BASELINE, baseline)) if found]
    number = max(len(study.of(arm, COMPLETE)) for arm in (GROWTH, BASELINE))
    bias = (
        "The value of the best trial is biased downwards, because the trial was selected by it; pli-train sweep with "
        "--confirm K gives an unbiased one."
        if number > 1
        else "This is one trial per arm; pli-train sweep with --confirm K gives a mean over seeds."
    )
    return f"Lowest {objective(study)} in the search: {', '.join(clauses)}. {bias}"


def _confirmed(found: Confirmation) -> str:
    """State means and difference of the confirmation trials."""
    means = [f"{each.arm} {each.mean.value:.4f} ({_seeds(each)})" for each in found.arms]
    older = [each for each in found.arms if not each.is_best]
    notes = [
        f" {each.arm}-{each.number:04d} was confirmed, but is no longer the best {each.arm} trial: run --confirm again."
        for each in older
    ]
    failures = [f"{each.planned - len(each.trials)} of {each.planned} {each.arm}" for each in found.arms
                if each.planned > len(each.trials)]  # fmt: skip
    notes += [f" Not complete: {' and '.join(failures)} confirmation trials."] if failures else []
    return f"Confirmation with new seeds: {', '.join(means)}. {_difference(found)}{''.join(notes)}"


def _difference(found: Confirmation) -> str:
    if found.difference is None:
        return "The arms have no seed in common, so their difference is not known."
    change, number = found.difference, len(found.seeds)
    words = f"growth − baseline: {change.value:+.4f}"
    if not np.isfinite(change.low):
        why = "one pair of runs" if number == 1 else f"{number} pairs that do not differ"
        return f"{words} (no interval: {why})."
    return f"{words} ({_interval(change)}, paired t, n = {number} seeds){_reading(change)}."


def _reading(change: Estimate) -> str:
    """Interpret the interval of a difference."""
    if change.low <= 0 <= change.high:
        return "; the interval contains 0, so no difference is established"
    return f"; {GROWTH if change.high < 0 else BASELINE} has the lower loss"


def _interval(estimate: Estimate) -> str:
    return f"95 % interval {estimate.low:+.4f} to {estimate.high:+.4f}"


def _seeds(each: Confirmed) -> str:
    return f"mean over n = {len(each.trials)}" if len(each.trials) > 1 else "n = 1"


def _pruning(found: Pruning) -> str:
    words = f"{found.trial.name} was pruned at step {found.trial.pruned_at:,}"
    if not found.rank:
        return words
    where = f"its loss at {100 * found.share:.0f} % of its budget was {found.loss:.3f}"
    return f"{words}: {where}, rank {found.rank} of the {counted(found.rivals, 'trial')} that have reached it by now"


def _found(study: Study, trials: Sequence[Trial]) -> str:
    """Name the best trials, their value, and the number of trials that they were selected from."""
    first, number = trials[0], len(study.of(trials[0].arm, COMPLETE))
    if len(trials) > 1:
        seeds = f"mean over {len(trials)} seeds"
        return (
            f"{', '.join(t.name for t in trials)} (value {value_of(trials):.4f}, {seeds}; {counted(number, 'trial')})"
        )
    return f"{first.name} (value {value_of(trials):.4f}, the lowest of {counted(number, 'trial')})"


def _settings(study: Study, trial: Trial, without: Sequence[str] = ()) -> list[str]:
    """List the sampled parameters besides those of the schedule; for a baseline also a learning rate that is fixed."""
    chosen: dict[str, Any] = {
        name: value for name, value in trial.parameters.items() if not name.startswith(RULE) and name not in without
    }
    if trial.arm == BASELINE and RATE not in chosen:
        chosen[RATE] = setting(study, trial, RATE)
    return [f"{NAMES.get(name, f'{name} =')} {label(value)}" for name, value in chosen.items() if value is not None]


def _some(lines: Sequence[str], noun: str) -> list[str]:
    more = len(lines) - LISTED
    return [*lines[:LISTED], *([f"{counted(more, noun)} in the table."] if more > 0 else [])]


def _seconds(seconds: float) -> str:
    """Return seconds with at least two digits, so that short times are not 0."""
    return f"{seconds:,.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


def _arm(arm: str) -> str:
    return "confirmation" if arm == CONFIRM else arm
