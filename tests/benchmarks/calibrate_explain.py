"""False positives and power of `pli-analyze explain`: `python tests/benchmarks/calibrate_explain.py`.

Two parts, each a table on stdout and a CSV in results/:
    simulated   differences of normal and heavy-tailed (Student's t, 3 degrees of freedom) distributions: the rate of
                p < 0.05 in the primary test, the rate of any adjusted p < 0.05 in the other tests, and the power for
                effects of 1, 2 and 3 standard deviations between runs (of the other tests: their share)
    trained     32 tiny runs that never grow. One layer, at random, is called inserted, and the runs are split at
                random into pairs of a grown and a scratch run: `--groups` times
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pli_analysis.metrics.comparison.group_difference import max_t
from pli_analysis.metrics.explain import contrasts, explain, measures
from pli_analysis.runs.opening import open_run
from pli_train.config import loading
from pli_train.training import launch

RESULTS = Path(__file__).parent / "results"
OTHERS = [
    (measure.name, reference)
    for measure in measures.MEASURES
    for reference in contrasts.REFERENCES
    if (measure.name, reference) != explain.PRIMARY
]
DRAWS = {
    "normal": lambda chance, shape: chance.normal(size=shape),
    "t3": lambda chance, shape: chance.standard_t(3, size=shape) / np.sqrt(3),
}
COLUMNS = ["distribution", "runs", "effect", "primary", "others", "repeats"]
CONFIG = {
    "name": "null",
    "model": {"family": "gpt2", "config": {"n_embd": 16, "n_head": 2, "n_positions": 32, "n_layer": 4}},
    "tokenizer": {"vocab_size": 260},
    "data": {"source": "python"},
    "train": {"steps": 30, "block_size": 32, "batch_size": 8, "eval_every": 30, "eval_blocks": 16, "eval_full": 0}
    | {"grad_norms_every": 1},
    "optim": {"lr": 3e-3},
    "checkpoint": {"every": 30},
}


def made(differences: np.ndarray, measure: str, reference: str) -> pd.DataFrame:
    """Return contrasts with these differences of runs."""
    rows = [(f"run-{seed}", seed, measure, reference, value, 0.0, value) for seed, value in enumerate(differences)]
    return pd.DataFrame(rows, columns=explain.CONTRASTS)


def sign_flip(differences: np.ndarray) -> np.ndarray:
    """Return the exact p of each row of (tests, runs): the share of signs with an absolute sum as large."""
    signs = np.array(list(itertools.product((-1, 1), repeat=differences.shape[1])))
    sums = np.abs(differences @ signs.T)
    return (sums >= np.abs(differences.sum(axis=1, keepdims=True)) * (1 - 1e-12)).mean(axis=1)


def simulated(repeats: int) -> pd.DataFrame:
    """Return rates of p < 0.05 by distribution, number of runs and effect."""
    rows = []
    for (name, draw), runs, effect in itertools.product(DRAWS.items(), (3, 5, 6, 8, 10), (0, 1, 2, 3)):
        chance, primary, family = np.random.default_rng([runs, effect]), [], []
        for repeat in range(repeats):
            differences = effect + draw(chance, (1 + len(OTHERS), runs))
            [first] = sign_flip(differences[:1])
            adjusted = max_t(differences[1:].T)
            if repeat == 0:  # the tests of the command are the same
                named = zip(differences, (explain.PRIMARY, *OTHERS), strict=True)
                tests = explain.summary(pd.concat([made(row, *which) for row, which in named]))
                assert np.allclose(np.sort(tests["p_adjusted"]), np.sort([first, *adjusted]))
            primary.append(first < 0.05)
            family.append((adjusted < 0.05).mean() if effect else (adjusted < 0.05).any())
        rows.append((name, runs, effect, np.mean(primary), np.mean(family), repeats))
    return pd.DataFrame(rows, columns=COLUMNS)


def trained(groups: int, folder: Path, count: int = 32) -> pd.DataFrame:
    """Return rates of p < 0.05 for random pairs of runs that never grew."""
    layers = []
    for seed in range(count):
        out = folder / f"run-{seed}"
        launch.begin(loading.check({**CONFIG, "seed": seed}, "calibration"), out).run()
        run = open_run([out])
        layers.append(measures.of_layers(run, run.checkpoints[-1].name, None, 16))
        print(out.name, flush=True)
    rows = []
    for runs in (6, 8, 10):
        chance, primary, family = np.random.default_rng(runs), [], []
        for _ in range(groups):
            index = int(chance.integers(len(layers[0])))
            chosen = chance.permutation(count)[: 2 * runs].reshape(2, runs)
            tables = [
                made(
                    np.array([layers[a][name].iloc[index] - layers[b][name].iloc[index] for a, b in chosen.T]),
                    name,
                    contrasts.SCRATCH,
                )
                for name in (measure.name for measure in measures.MEASURES)
            ]
            tests = explain.summary(pd.concat(tables))
            primary.append(tests["p"].iloc[0] < 0.05)
            family.append((tests["p_adjusted"] < 0.05).any())
        rows.append(("trained", runs, 0, np.mean(primary), np.mean(family), groups))
    return pd.DataFrame(rows, columns=COLUMNS)


def main() -> None:
    """Print both tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="simulated groups per row")
    parser.add_argument("--groups", type=int, default=500, help="random groups of the trained runs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = pd.concat([simulated(asked.repeats), trained(asked.groups, Path(folder))])
    print(table.to_string(index=False))
    table.to_csv(RESULTS / "calibrate_explain.csv", index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
