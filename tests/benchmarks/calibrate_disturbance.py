"""How often disturbance calls a step unusual where nothing happened: real little runs that never grow.

Each run is trained from a seed of its own; one of its checkpoints, drawn at random, is then examined as if it were a
growth event. p < 0.05 should come up in some 5 % of cases.

    python tests/benchmarks/calibrate_disturbance.py --runs 200
"""

import argparse
import os
import random
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

EVERY, STEPS, LEVEL = 5, 180, 0.05


def config_of(seed, corpus, family):
    from pli_train import config

    sizes = {"gpt2": {"n_embd": 32, "n_head": 2, "n_positions": 32}}
    sizes["bert"] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    table = {
        "name": "still",
        "seed": seed,
        "model": {"family": family, "config": sizes[family], "initial_layers": 2},
        "tokenizer": {"vocab_size": 300},
        "data": {"source": str(corpus), "test_share": 0.2},
        "train": {"steps": STEPS, "block_size": 32, "batch_size": 8, "log_every": 10, "eval_every": STEPS}
        | {"eval_blocks": 8, "grad_norms_every": 1, "grad_norm_groups": ["layer"]},
        "optim": {"lr": 3e-3, "warmup_ratio": 0.1},
        "checkpoint": {"every": EVERY, "full_last": 1},
    }
    return config.check(table, "calibration")


def main():
    import pandas as pd

    from pli_analysis.metrics.disturbance import disturbance
    from pli_analysis.run import Run
    from pli_train import launch

    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=200)
    ask.add_argument("--window", type=int, default=2 * EVERY)
    ask.add_argument("--corpus", type=Path, default=Path(os.__file__).parent / "json")
    asked = ask.parse_args()
    chance, layers, events = random.Random(0), [], []
    for seed in range(asked.runs):
        family = ("gpt2", "bert")[seed % 2]
        folder = Path(tempfile.mkdtemp())
        try:
            os.environ["PLI_CACHE"] = str(Path(tempfile.gettempdir()) / "calibration-tokens")
            launch.begin(config_of(seed, asked.corpus, family), folder / "run").run()
            os.environ["PLI_CACHE"] = str(folder / "cache")
            at = chance.randrange(asked.window + EVERY, STEPS - asked.window, EVERY)
            found = disturbance(Run.open(folder / "run"), window=asked.window, at=[at], most=60)
            layers.append(found.layers.assign(seed=seed, family=family))
            events.append(found.events.assign(seed=seed, family=family))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if (seed + 1) % 20 == 0:
            report(pd.concat(layers), pd.concat(events), seed + 1)


def report(layers, events, runs):
    print(f"\n{runs} runs without growth, one step each; share of cases with p < {LEVEL}")
    rows = [("score of a layer", layers["p"]), ("loss spike", events["spike_p"]), ("loss area", events["area_p"])]
    rows += [(f"score, {family}", of["p"]) for family, of in layers.groupby("family")]
    for name, ps in rows:
        known = ps.dropna()
        share = (known < LEVEL).mean()
        error = (share * (1 - share) / max(len(known), 1)) ** 0.5
        print(f"  {name:<18} {share:6.1%} ± {error:.1%}  of {len(known)} cases; median p {known.median():.2f}")
    per_run = layers.groupby("seed")["p"].min()
    print(f"  placebos {layers['placebos'].min()} to {layers['placebos'].max()}; least p of a run's layers < {LEVEL}: "
          f"{(per_run < LEVEL).mean():.1%}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
