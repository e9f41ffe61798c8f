"""Checkpoints of grown runs without their lineage, and runs that grow at random."""

import random
import shutil
from pathlib import Path

from pli_train.config import loading as configs
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.conftest import MODELS


def strip(run, into, keep=lambda name: True):
    """Copy some checkpoints of a run without lineage, manifest and optimizer. Return their lineages, in order."""
    into.mkdir(parents=True)
    truth = []
    for name, path in run_folder.checkpoints(Path(run)):
        if keep(name):
            copy = shutil.copytree(path, into / path.name)
            truth.append(Lineage.read(copy / run_folder.LINEAGE))
            for file in (run_folder.LINEAGE, run_folder.MANIFEST, run_folder.OPTIMIZER):
                (copy / file).unlink(missing_ok=True)
    return truth


def random_run(seed, folder, corpus):
    """Train a run of a random family with random growth: one to three moments, one to three layers each.

    Returns:
        A function that chooses checkpoints to keep. None is right after an event, so that each event is some training
        steps before the first checkpoint that shows it.
    """
    chance = random.Random(seed)
    family, depth = chance.choice(["gpt2", "bert", "llama"]), chance.choice([1, 2, 3, 4, 6])
    model = MODELS[family] | {"gpt2": {"n_head": 4}, "bert": {"num_attention_heads": 4}, "llama": {}}[family]
    schedule, step, layers, heads = [], 0, depth, 2
    for _ in range(chance.randint(1, 3)):
        step += chance.randint(2, 8)
        for _ in range(chance.choice([1, 1, 2, 3])):
            donor = chance.choice(["below", "above"])
            schedule.append({"operator": "insert", "at": step, "index": chance.randint(0, layers), "donor": donor})
            layers += 1
        if chance.random() < 0.25 and heads < 4:
            heads = 4
            schedule.append({"operator": "heads", "at": step, "to": heads})
        if chance.random() < 0.2:
            schedule.append({"operator": "swap", "at": step, "indices": chance.sample(range(layers), 2)})
    table = {
        "name": family,
        "seed": chance.randrange(1000),
        "model": {"family": family, "config": model, "initial_layers": depth, "initial_heads": 2},
        "tokenizer": {"vocab_size": 300},
        "data": {"source": str(corpus), "test_share": 0.2},
        "train": {"steps": step + chance.randint(2, 8), "block_size": 32, "batch_size": 4, "log_every": 10}
        | {"eval_every": 1000, "eval_blocks": 8},
        "optim": {"lr": chance.choice([1e-3, 3e-3, 1e-2]), "warmup_ratio": 0.1},
        "growth": {"schedule": schedule, "noise": chance.choice([0.01, 0.1])}
        | {"initializer": chance.choice(["random", "clone", "clone-noise", "identity"])},
        "checkpoint": {"every": chance.choice([1, 2, 3]), "full_last": 1},
    }
    launch.begin(configs.check(table, "test"), folder).run()
    events = {event["at"] for event in schedule}
    names = [name for name, _ in run_folder.checkpoints(folder)]
    chosen = [name for name in names if not (name.after and name.step in events)]
    ends = (chosen[0], chosen[-1])
    kept = {name for name in chosen if name in ends or chance.random() < (0.7 if name.after else 0.35)}
    return lambda name: name in kept
