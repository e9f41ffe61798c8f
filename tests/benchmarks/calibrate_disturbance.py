"""False positive rate of disturbance: how often a step without growth has p < 0.05, in small real runs.

Each run of each cell is trained from its own seed, GPT-2 and BERT in turn, and ten of its steps are tested as if they
were growth events. At each of these steps, not only on average, p < 0.05 should occur in about 5 % of the runs; with n
placebo steps, in the largest multiple of 1 ÷ (1 + n) below that. Steps with fewer than 20 placebo steps cannot have
such a p: they are counted in the column `without`. The last rows pool the cells of one length step by step.

    python tests/benchmarks/calibrate_disturbance.py --csv tests/benchmarks/results/calibrate_disturbance.csv
    python tests/benchmarks/calibrate_disturbance.py --old-rule --runs 6 --cells linear-0.1-180

`--old-rule` shows the result of an earlier rule: placebo steps from the whole run, in any phase of the learning rate.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

WINDOW, LEVEL = 20, 0.05
SHARES = (0.11, 1 / 6, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.92)
EVERY = {180: 3, 400: 10}
LAYERED = ("linear-0.1-180", "wsd-0.03-180", "cosine-0.03-180", "constant-0.1-180")
"""Cells with checkpoints, for scores of layers; the others have only losses, which are cheaper."""
CELLS = (*LAYERED, "wsd-0.03-400", "linear-0.1-400", "cosine-0.1-400", "constant-0.03-400")
SEEDS = 1000
"""Maximum number of seeds per cell; seeds of different cells differ, so no two runs share batches."""
SIZES = {
    "gpt2": {"n_embd": 32, "n_head": 2, "n_positions": 32},
    "bert": {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32},
}


def config_of(cell, seed, corpus):
    from pli_train.config import loading

    schedule, warmup, length = cell.split("-")
    steps, layered, family = int(length), cell in LAYERED, list(SIZES)[seed % 2]
    table = {
        "name": "still",
        "seed": seed,
        "model": {"family": family, "config": SIZES[family], "initial_layers": 2},
        "tokenizer": {"vocab_size": 300},
        "data": {"source": str(corpus), "test_share": 0.2},
        "train": {"steps": steps, "block_size": 32, "batch_size": 32, "log_every": 50, "eval_every": steps}
        | {"eval_blocks": 8, "grad_norms_every": int(layered), "grad_norm_groups": ["layer"]},
        "optim": {"lr": 1e-2, "schedule": schedule, "warmup_ratio": float(warmup)},
        "checkpoint": {"every": EVERY[steps] if layered else None, "full_last": 1},
    }
    return loading.check(table, "calibration")


def steps_of(cell):
    length = int(cell.split("-")[2])
    return [round(length * share / EVERY[length]) * EVERY[length] for share in SHARES]


def examined(run, steps, layered):
    """Yield (step, statistic, p, smallest possible p, placebos) of each of these steps."""
    from pli_analysis.metrics.disturbance.disturbance import disturbance
    from pli_analysis.metrics.disturbance.event_context import EventContext
    from pli_analysis.metrics.disturbance.loss_effect import Losses
    from pli_analysis.metrics.disturbance.placebo import MOST

    if layered:
        found = disturbance(run, window=WINDOW, at=steps)
        rows = found.events.to_dict("records")
        yield from ((r["step"], "score", r["p"], r["min_p"], r["placebos"]) for r in found.layers.to_dict("records"))
    else:
        losses = Losses(EventContext(run, (), WINDOW), MOST)
        rows = [{"step": step} | losses.row(step, losses.after(step)) for step in steps]
    for row in rows:
        for name in ("spike", "excess_area"):
            yield row["step"], name, row[f"{name}_p"], row["min_p"], row["placebos"]


def cases(cell, runs, corpus):
    """Return a table with one row per run, step and statistic."""
    import pandas as pd

    from pli_analysis.runs.opening import open_run
    from pli_train.training import launch

    rows, first = [], CELLS.index(cell) * SEEDS
    for seed in range(first, first + runs):
        folder = Path(tempfile.mkdtemp())
        try:
            os.environ["PLI_CACHE"] = str(Path(tempfile.gettempdir()) / "calibration-tokens")
            launch.begin(config_of(cell, seed, corpus), folder / "run").run()
            os.environ["PLI_CACHE"] = str(folder / "cache")
            rows += [(cell, *row) for row in examined(open_run(folder / "run"), steps_of(cell), cell in LAYERED)]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return pd.DataFrame(rows, columns=["cell", "step", "statistic", "p", "min_p", "placebos"])


def table(found):
    """Return one row per cell, step and statistic: how many cases could have p < 0.05, and how many had it."""
    import pandas as pd

    rows = []
    for (cell, step, statistic), of in found.groupby(["cell", "step", "statistic"], sort=False):
        able = of[of["p"].notna() & (of["min_p"] < LEVEL)]
        rate = (able["p"] < LEVEL).mean()
        error = (rate * (1 - rate) / len(able)) ** 0.5 if len(able) else float("nan")
        row = {"cell": cell, "step": step, "statistic": statistic, "cases": len(able), "rate": rate, "error": error}
        rows.append(row | {"without": len(of) - len(able), "placebos": of["placebos"].median()})
    return pd.DataFrame(rows).round(4)


def pooled(found):
    """Return the cases with all cells of one length combined into one cell."""
    return found.assign(cell="all of " + found["cell"].str.rsplit("-", n=1).str[1] + " steps")


def follow_old_rule(patch=setattr):
    """Patch the choice of placebo steps: from the whole run, evenly spread, in any phase, over the whole window."""
    from pli_analysis.metrics.disturbance import placebo
    from pli_analysis.metrics.drift.rates import ScheduledRates

    def around(step, reach, candidates, most):
        far = [at for at in candidates if abs(at - step) >= reach]
        return far[:: max(len(far) // most, 1)][:most]

    patch(placebo, "around", around)
    patch(placebo, "FACTOR", 10**6)
    patch(placebo, "longest", lambda reaches, placebos, enough: (reaches[0], placebos(reaches[0])))
    patch(ScheduledRates, "phase", lambda self, start, end, event=None: "any")


def main():
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="number of runs per cell")
    parser.add_argument("--cells", nargs="*", default=CELLS, help="cells to run, as SCHEDULE-WARMUP-STEPS")
    parser.add_argument("--old-rule", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--corpus", type=Path, default=Path(os.__file__).parent / "json")
    options = parser.parse_args()
    if options.old_rule:
        follow_old_rule()
    found = []
    for cell in options.cells:
        found.append(cases(cell, options.runs, options.corpus))
        print(table(found[-1]).to_string(index=False), flush=True)
        if options.csv:
            every = pd.concat(found)
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            pd.concat([table(every), table(pooled(every))]).to_csv(options.csv, index=False)
    print(table(pooled(pd.concat(found))).to_string(index=False))


if __name__ == "__main__":
    main()
