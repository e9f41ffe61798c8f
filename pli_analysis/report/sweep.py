"""Report of a study: growth against the tuned baseline, the search, parameter importance, all trials."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import parallel
from pli_analysis.figures import sweep as figures
from pli_analysis.metrics.sweep import best_curves, run_logs, trials
from pli_analysis.report import compare, sweep_words
from pli_analysis.report.parts import Figure, Report, Section
from pli_train.core.errors import counted
from pli_train.core.run_format.study_folder import BASELINE, COMPLETE, CONFIRM, FAIL, GROWTH

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.sweep.results import Results
    from pli_analysis.metrics.sweep.trials import Study

SEARCH = "Search trials, one seed each"
METHOD = [
    (
        "value",
        "What the study minimizes. The final eval loss is over all held-out text; curves show the loss on the "
        "sampled held-out blocks.",
    ),
    (
        "confirmation",
        "The best trial of each arm, repeated with new seeds. The seeds are the same for both arms, and runs with "
        "the same seed form a pair. The 95 % interval is Student's t interval of the differences of the pairs. The "
        "trials of the search are not used.",
    ),
    (
        "bias of the search",
        "The best of several trials was selected by its value, so its value is lower than its expected value with a "
        "new seed. The bias grows with the number of trials and with the noise between seeds.",
    ),
    (
        "pruning",
        "The loss of a pruned trial is compared with those of all trials of its arm at the same share of their planned "
        "FLOPs, also of later ones, interpolated between evaluations. The pruner compared it with the trials known at "
        "that time.",
    ),
    (
        "cost",
        "FLOPs are computed from tensor shapes. Seconds of training do not include evaluations and checkpoints; the "
        "time from start to end of a trial also includes start-up and interruptions.",
    ),
]
IMPORTANCE_METHOD = [
    (
        "importance",
        "fANOVA (Hutter, Hoos and Leyton-Brown 2014), computed by Optuna: a random forest predicts the value from the "
        "parameters; the importance of a parameter is the share of the variance of the prediction over the search "
        "space that it explains alone. The rest is due to interactions. Ranges sampled on a logarithmic scale enter as "
        "logarithms.",
    ),
    (
        "caveats",
        "The forest is fitted to the trials, which a sampler such as TPE concentrates in good regions. With few trials "
        "the values are rough. Noise between seeds counts as an effect of parameters.",
    ),
    ("left out", "Parameters with a condition, which some trials do not have, and parameters with one value."),
]


def words(found: Results) -> list[str]:
    """Return the findings as lines, the most important first."""
    study = found.study
    lines = [
        sweep_words.states(study),
        sweep_words.headline(study, found.confirmation),
        *sweep_words.best_strategies(study),
        sweep_words.missing_arm(study),
        sweep_words.importance(found.importance),
        *sweep_words.pruned(found.prunings),
        *sweep_words.failed(study),
        sweep_words.cost(found.arms),
    ]
    return [line for line in lines if line]


def build(found: Results) -> Report:
    """Build the report of a study."""
    study = found.study
    sections = [_summary(found), _comparison(found), _search(found), _importance(found), _trials(found)]
    many = counted(len(study.trials), "trial")
    return Report(f"Study {study.name}", f"{many}; minimized: {sweep_words.objective(study)}.", sections)


def _summary(found: Results) -> Section:
    study = found.study
    points = [("Result", sweep_words.headline(study, found.confirmation))]
    points += list(zip(("Best growth", "Best baseline"), _strategies(study), strict=True))
    points.append(("Importance", sweep_words.importance(found.importance)))
    points.append(("Cost", sweep_words.cost(found.arms).removeprefix("Cost: ")))
    return Section("summary", "Summary", [sweep_words.states(study)], points=points, facts=_facts(study))


def _strategies(study: Study) -> tuple[str, str]:
    """Describe the best trial of each arm, or state that there is none."""
    lines = sweep_words.best_strategies(study)
    found = dict(line.split(": ", 1) for line in lines)
    growth = found.get(sweep_words.BEST_GROWTH, "No growth trial is complete.")
    return growth, found.get(sweep_words.BEST_BASELINE, sweep_words.missing_arm(study))


def _facts(study: Study) -> list[tuple[str, str]]:
    """List settings of the study."""
    settings, command = study.settings, study.document.get("command")
    budget = study.document.get("budget")
    unit = {"tokens": "tokens", "seconds": "seconds"}.get(study.objective, "FLOPs")
    versions = study.document.get("versions")
    return [
        ("Objective", sweep_words.objective(study)),
        ("Budget of a run", f"{budget:.4g} {unit}" if isinstance(budget, int | float) else "steps of the base config"),
        ("Sampler", str(settings.get("sampler"))),
        ("Pruner", str(settings.get("pruner"))),
        ("Created", _created(study.document.get("created"))),
        ("Command", " ".join(map(str, command)) if isinstance(command, list) else ""),
        ("Versions", ", ".join(f"{n} {v}" for n, v in versions.items()) if isinstance(versions, dict) else ""),
    ]


def _created(time: object) -> str:
    """Return a time of study.json to the minute; other values as text."""
    try:
        return f"{datetime.fromisoformat(str(time)).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError):
        return "" if time is None else str(time)


def _comparison(found: Results) -> Section:
    """Build the section with the loss curves of the best growth trial and the baseline."""
    import pandas as pd

    study, confirmed = found.study, found.confirmation
    curves = best_curves.best_curves(study, confirmed)
    lines = [f"Without {', '.join(curves.missing)}: no run folder with eval losses."] if curves.missing else []
    tables = [("Confirmation", confirmed.table())] if confirmed else []
    if confirmed:
        again = found.table[found.table[col.ARM] == CONFIRM]
        tables.append(("Confirmation trials", again.dropna(axis=1, how="all")))
    shown = []
    if curves.curves:
        table = compare.drawn_points(curves.curves, {col.FLOPS: col.FLOPS})
        means = [
            best_curves.mean_curve(mine).assign(**{col.GROUP: arm})
            for arm in (GROWTH, BASELINE)
            if len(mine := [curve for curve in curves.curves if curve.group == arm]) > 1
        ]
        columns = [col.GROUP, col.FLOPS, col.LOSS, col.LOSS_LOW, col.LOSS_HIGH]
        mean = pd.concat(means, ignore_index=True)[columns] if means else pd.DataFrame(columns=columns)
        drawing = figures.losses(table, mean)
        shown = [Figure("losses", "Eval loss over FLOPs", _curves_caption(found, curves), drawing, table)]
    return Section("comparison", "Growth and baseline", lines, figures=shown, tables=tables, method=METHOD)


def _curves_caption(found: Results, curves: best_curves.BestCurves) -> str:
    runs = " and ".join(
        f"{counted(number, 'run')} of {arm}" for arm in (GROWTH, BASELINE) if (number := curves.runs(arm))
    )
    lead = sweep_words.headline(found.study, found.confirmation)
    if curves.confirmed:
        return (
            f"{lead} Confirmation trials: {runs}; thin lines are seeds, bands go from the lowest to the "
            "highest, triangles are growth events."
        )
    return f"{lead} Search trials: {runs}. Triangles are growth events."


def _search(found: Results) -> Section:
    """Build the section with the history of the search and its parameters."""
    study = found.study
    history, table = trials.history(study), _complete(found)
    if not len(history):
        return Section("search", "Search", ["No trial is complete."])
    value = sweep_words.value_name(study)
    shown = [
        Figure("history", "Best value so far", _history_caption(history), figures.history(history, value), history)
    ]
    if scales := _scales(study, table):
        note = f"{SEARCH}: {counted(len(table), 'complete growth trial')}. Values are not independent of the search."
        best = f"Best: trial {table.loc[table[col.VALUE].idxmin(), col.NUMBER]}."
        shown += [
            Figure("parallel", "Parallel coordinates", f"{best} {note}", parallel.figure(table, scales, value), table),
            Figure(
                "slices", "Value over each parameter", f"{best} {note}", figures.slices(table, scales, value), table
            ),
        ]
    return Section("search", "Search", figures=shown)


def _history_caption(history: pd.DataFrame) -> str:
    clauses = []
    for arm, rows in history.groupby(col.ARM, sort=False):
        last = rows[rows[col.VALUE] == rows[col.BEST_VALUE].min()].iloc[0]
        clauses.append(
            f"{arm}: {last[col.VALUE]:.4f}, found by trial {last[col.NUMBER]} of {counted(len(rows), 'complete trial')}"
        )
    return f"Lowest value, {'; '.join(clauses)}. {SEARCH}: the lowest value is biased downwards by selection."


def _complete(found: Results) -> pd.DataFrame:
    """Return the complete growth trials, with number, value and parameters."""
    table = found.table
    rows = table[(table[col.ARM] == GROWTH) & (table[col.STATE] == COMPLETE)]
    return rows[[col.NUMBER, col.VALUE, *found.study.parameters]].reset_index(drop=True)


def _scales(study: Study, table: pd.DataFrame) -> dict[str, bool]:
    """Return the growth parameters that differ → whether they are sampled on a logarithmic scale."""
    space = study.space.get("parameters")
    specs: dict[str, Any] = space if isinstance(space, dict) else {}
    differ = [name for name in study.parameters if table[name].nunique() > 1]
    return {name: isinstance(spec := specs.get(name), dict) and spec.get("log") is True for name in differ}


def _importance(found: Results) -> Section:
    words, result = sweep_words.importance(found.importance), found.importance
    if result.reason:
        return Section("importance", "Parameter importance", [words], method=IMPORTANCE_METHOD)
    caption = f"{words} {SEARCH}."
    figure = Figure("importance", "Parameter importance", caption, figures.importance(result.table), result.table)
    return Section("importance", "Parameter importance", figures=[figure], method=IMPORTANCE_METHOD)


def _trials(found: Results) -> Section:
    """Build the section with the tables of arms and trials, and why trials ended early."""
    study, table = found.study, found.table
    lines = [*sweep_words.pruned(found.prunings), *sweep_words.failed(study)]
    tables = [("Arms", found.arms), ("Trials", table.dropna(axis=1, how="all"))]
    if found.prunings:
        tables.append(("Pruned trials", run_logs.pruned_table(found.prunings)))
    if len(errors := table[table[col.STATE] == FAIL]):
        tables.append(
            ("Failed trials", errors[[col.ARM, col.NUMBER, col.ERROR]].astype(object).where(errors.notna(), np.nan))
        )
    return Section("trials", "Trials", lines, tables=tables)
