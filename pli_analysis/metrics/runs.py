"""Several runs as tables: what each is, what their configs differ in, and how groups of seeds differ in loss.

Columns of `runs`, one row a run:
    run, group    its name, and that of the runs that differ from it by seed alone
    seed
    layers        at the first and the last checkpoint: `1 → 6`
    events        how many growth events
    parameters    at the end
    steps, tokens, flops, seconds   of training; empty where not logged
    eval loss     the last one, in nats per target

Columns of `differences`, one row a key that not all runs have the same value of:
    key           dotted, as in the config
    kind          `growth` (what is to be compared), `seed`, `watching` (changes nothing that is learned) or `tuning`
    then one column a run

Columns of `groups`, one row a group:
    group, runs   its name, and how many runs it has
    loss, spread  mean and standard deviation (of runs) of the loss at a step
    difference    from the reference group's mean
    p, least_p    of an exact permutation test of runs between the two groups, two-sided, on the difference of means;
                  and the smallest that so many runs can give (Phipson and Smyth 2010); empty for the reference
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.metrics import compare
from pli_train import run_folder

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.compare import Curve
    from pli_analysis.run import Run

GROWTH = ("growth.", "model.initial_layers", "model.initial_heads")
WATCHING = (
    *("name", "description", "checkpoint.", "tracking."),
    *("train.log_every", "train.eval_", "train.grad_norm", "train.update_ratios"),
)
ABSENT = "—"
DRAWS = 10_000
"""Ways to share out runs that a test looks at, at most."""


def runs(opened: Mapping[str, Run], groups: Mapping[str, str]) -> pd.DataFrame:
    """What each run is.

    Args:
        opened: name → run.
        groups: name → group.
    """
    import pandas as pd

    rows = []
    for name, run in opened.items():
        first, last = run.checkpoints[0], run.checkpoints[-1]
        depths = len(first.lineage.stack), len(last.lineage.stack)
        rows.append(
            {
                "run": name,
                "group": groups[name],
                "seed": run.record.get("seed"),
                "layers": f"{depths[0]} → {depths[1]}" if depths[0] != depths[1] else str(depths[0]),
                "events": len(run.lineage.events),
                "parameters": _last(run, run_folder.PARAMETERS),
                "steps": last.step,
                "tokens": last.tokens or None,
                "flops": _last(run, run_folder.FLOPS),
                "seconds": _last(run, run_folder.SECONDS),
                "eval loss": _last(run, run_folder.EVAL_LOSS),
            }
        )
    return pd.DataFrame(rows)


def differences(opened: Mapping[str, Run]) -> pd.DataFrame:
    """What the configs of runs differ in, growth first and what changes nothing last."""
    import pandas as pd

    configs = {name: _config(run) for name, run in opened.items()}
    rows = []
    for key in dict.fromkeys(key for config in configs.values() for key in config):
        values = {name: config.get(key, ABSENT) for name, config in configs.items()}
        if len({repr(value) for value in values.values()}) > 1:
            rows.append({"key": key, "kind": kind_of(key)} | {name: str(value) for name, value in values.items()})
    order = ["growth", "tuning", "seed", "watching"]
    rows.sort(key=lambda row: order.index(row["kind"]))
    return pd.DataFrame(rows, columns=["key", "kind", *configs])


def kind_of(key: str) -> str:
    """What a difference in this key of a config means for a comparison.

    >>> kind_of("growth.schedule"), kind_of("optim.lr"), kind_of("train.eval_every")
    ('growth', 'tuning', 'watching')
    """
    if key == "seed":
        return "seed"
    return "growth" if key.startswith(GROWTH) else "watching" if key.startswith(WATCHING) else "tuning"


def groups(curves: Sequence[Curve], at: int, reference: str) -> pd.DataFrame:
    """How groups of runs differ in loss at a step from the group called `reference`."""
    import pandas as pd

    grouped = compare.by_group(curves).items()
    losses = {name: np.array([compare.loss_at(curve, at) for curve in group]) for name, group in grouped}
    base, rows = losses[reference], []
    for name, mine in losses.items():
        p, least = (math.nan, math.nan) if name == reference else permuted(base, mine)
        spread = mine.std(ddof=1) if len(mine) > 1 else math.nan
        rows.append((name, len(mine), mine.mean(), spread, mine.mean() - base.mean(), p, least))
    return pd.DataFrame(rows, columns=["group", "runs", "loss", "spread", "difference", "p", "least_p"])


def permuted(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The p of an exact permutation test on the difference of means, and the smallest that so many values can give.

    Twice the share of ways to share the values out that give a difference as extreme on its side, 1 at most. Beyond
    `DRAWS` ways it is of as many random ones, what was found among them.

    >>> permuted(np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2]))
    (0.1, 0.1)
    """
    both, count = np.concatenate([one, other]), len(one)
    if not np.isfinite(both).all():
        return math.nan, math.nan
    ways = math.comb(len(both), count)
    if ways <= DRAWS:
        shares = np.array(list(itertools.combinations(range(len(both)), count)))
    else:
        chance = np.random.default_rng(0)
        drawn = [chance.permutation(len(both))[:count] for _ in range(DRAWS - 1)]
        shares = np.array([np.arange(count), *drawn])
    # The difference rises with the sum of the first group's values. Sums that are equal on paper may differ in a bit.
    sums, close = both[shares].sum(axis=1), 1e-12 * np.abs(both).sum()
    found = both[:count].sum()
    beyond = min((sums >= found - close).mean(), (sums <= found + close).mean())
    return min(2 * float(beyond), 1.0), min(2 / len(shares), 1.0)


def _config(run: Run) -> dict[str, object]:
    config = run.record.get("config", {})
    return run_folder.flatten(config) if isinstance(config, dict) else {}


def _last(run: Run, tag: str) -> float | None:
    table = run.scalars.table(tag)
    return float(table["value"].iloc[-1]) if len(table) else None
