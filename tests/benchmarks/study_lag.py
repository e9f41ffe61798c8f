"""Whether the choice of `pli-train lag` has a lower final loss than a random choice among the same candidates.

    python tests/benchmarks/study_lag.py [--seeds 7] [--steps 160] [--lag 16] [--folder DIR] [--csv FILE] [--report]

A GPT-2 of 2 layers grows to 4 in two events, on the source of Python's standard library. At each event, three
initializers × two positions are candidates, each with two data orders, and all are trained to the end. A random choice
has the mean final loss of all candidates. Intervals are 95 % Student's t over seeds; a seed's value is the mean over
both events. The table is written to the CSV file, with a row for each seed, event and candidate. `--report` trains
nothing and reads that file.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean

import numpy as np
import tomli_w
from machine import machine
from scipy import stats

from pli_train.commands import lag
from pli_train.sweep import space_reading
from pli_train.sweep.lag.summary import Outcome, correlation, outcomes
from tests.sweeping import InProcess

CONFIG = {
    "model": {
        "family": "gpt2",
        "config": {"n_embd": 48, "n_head": 2, "n_positions": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        | {"attn_pdrop": 0.0},
        "initial_layers": 2,
    },
    "tokenizer": {"vocab_size": 512},
    "data": {"source": "python", "fraction": 0.03, "test_share": 0.2},
    "train": {"block_size": 32, "batch_size": 16, "log_every": 100, "eval_every": 1000, "eval_blocks": 512}
    | {"grad_norms_every": 0},
    "optim": {"lr": 3e-3, "warmup_ratio": 0.1},
    "growth": {"schedule": "0.3@2 0.5@3"},
}
GRID = ["growth.initializer=random,clone,identity", "growth.position=start,end"]
RESULTS = Path(__file__).with_name("results") / "study_lag.csv"
FIELDS = ("seed", "event", "step", "lag", "candidate", "loss_at_birth", "loss_after_lag", "final_loss", "chosen")

Study = dict[int, list[tuple[int, int, list[Outcome]]]]
"""Seed → for each event its number, its step and its candidates."""


def compared(seed: int, steps: int, lag_steps: int, folder: Path) -> list[tuple[int, int, list[Outcome]]]:
    """Run or resume the comparison with one seed."""
    config = folder / f"seed-{seed}.toml"
    table = {**CONFIG, "seed": seed, "train": {**CONFIG["train"], "steps": steps}}
    config.write_text(tomli_w.dumps(table))
    space = space_reading.from_words(str(config), GRID, 0, [])
    done = lag.lag(space, folder / f"seed-{seed}", InProcess(), lag_steps, complete=True)
    events = ((event, list(rows)) for event, rows in groupby(done.rows, lambda row: row.event))
    return [(event, rows[0].step, outcomes(rows)) for event, rows in events]


def write(study: Study, lag_steps: int, path: Path) -> None:
    """Write a row for each seed, event and candidate."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(FIELDS)
        for seed, events in study.items():
            for event, step, found in events:
                for each in found:
                    losses = [f"{loss:.6f}" for loss in (each.at_birth, each.lagged, each.final)]
                    table.writerow([seed, event, step, lag_steps, each.values, *losses, int(each.chosen)])


def read(path: Path) -> Study:
    """Read what `write` wrote."""
    study: Study = {}
    with path.open() as file:
        for key, rows in groupby(csv.DictReader(file), itemgetter("seed", "event", "step")):
            seed, event, step = map(int, key)
            study.setdefault(seed, []).append((event, step, [_outcome(row) for row in rows]))
    return study


def _outcome(row: dict[str, str]) -> Outcome:
    losses = (float(row[name]) for name in ("loss_at_birth", "loss_after_lag", "final_loss"))
    return Outcome(row["candidate"], *losses, row["chosen"] == "1")


def report(study: Study) -> None:
    """Print each quantity: mean over seeds of the mean over events, with its interval."""
    quantities = {
        "final loss, chosen after the lag - random choice": lambda found: _chosen(found, "lagged") - _mean(found),
        "final loss, chosen at birth - random choice": lambda found: _chosen(found, "at_birth") - _mean(found),
        "final loss, best candidate - random choice": lambda found: _chosen(found, "final") - _mean(found),
        "Spearman, loss after the lag with final loss": lambda found: _ranks(found, "lagged").spearman,
        "Kendall, loss after the lag with final loss": lambda found: _ranks(found, "lagged").kendall,
        "Spearman, loss at birth with final loss": lambda found: _ranks(found, "at_birth").spearman,
        "Kendall, loss at birth with final loss": lambda found: _ranks(found, "at_birth").kendall,
    }
    for name, measure in quantities.items():
        print(f"{name:<52} {interval([fmean(measure(found) for *_, found in events) for events in study.values()])}")
        for number in range(len(next(iter(study.values())))):
            at_event = [measure(events[number][2]) for events in study.values()]
            print(f"{f'  event {number + 1} alone':<52} {interval(at_event)}")


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % t-interval as text."""
    mean, count = fmean(values), len(values)
    if count < 2:
        return f"{mean:+.4f} (n = 1: no interval)"
    half = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5)
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f}, n = {count})"


def _mean(found: Sequence[Outcome]) -> float:
    return fmean(each.final for each in found)


def _chosen(found: Sequence[Outcome], loss: str) -> float:
    """Return the final loss of the candidate with the lowest loss of a kind; of several, their mean."""
    lowest = min(getattr(each, loss) for each in found)
    return fmean(each.final for each in found if getattr(each, loss) == lowest)


def _ranks(found: Sequence[Outcome], loss: str):
    return correlation([getattr(each, loss) for each in found], [each.final for each in found])


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--lag", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="keep the runs in this folder, and resume them from there")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="print the report of the CSV file")
    asked = parser.parse_args()
    if asked.report:
        report(read(asked.csv))
        return
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        study: Study = {}
        for seed in range(asked.seeds):
            study[seed] = compared(seed, asked.steps, asked.lag, folder)
            print(f"seed {seed} done", flush=True)
        write(study, asked.lag, asked.csv)
        report(study)


if __name__ == "__main__":
    main()
