"""Runs without training: a tiny model that grows and whose weights move at random, written as a run."""

import copy
import hashlib
import json

import torch
from safetensors.torch import save_file

from pli_train.core import anatomy
from pli_train.core.run_format import run_folder
from pli_train.growth.initial_shape import start_of
from pli_train.growth.operators.ffn import WidenFFN
from pli_train.growth.operators.heads import AddHeads
from pli_train.growth.operators.insert import Insert
from pli_train.growth.operators.swap import Swap
from pli_train.models import build as models
from pli_train.models import padding
from pli_train.training.tensorboard import ScalarWriter
from tests.families import HEADS, OPTIONAL, UNITS, tiny


class Drifting:
    """A run whose every step adds noise to all weights of a tiny model."""

    def __init__(self, folder, family, heads=None, **config):
        self.folder, self.step, self.scalars = folder, 0, None
        self.model, self.anatomy = tiny(family, **config), anatomy.family(family)
        depth = len(models.stack_of(self.model, self.anatomy))
        self.lineage = start_of(self.model, self.anatomy, depth, heads, None).lineage()
        models.shrink(self.model, self.anatomy, self.lineage.shapes())
        models.sync_config(self.model, self.anatomy)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / run_folder.RUN).write_text('{"config": {}}')
        self.save()

    def move(self, size=0.01, steps=1, seed=None):
        generator = torch.Generator().manual_seed(self.step if seed is None else seed)
        self.step += steps
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))

    def stretch(self, factor):
        self.step += 1
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.mul_(factor)

    def grow(self, event):
        self.save(after=False)
        event.grow(self.model, self.anatomy, self.lineage, seed=self.step)
        event.record(self.lineage, self.step)
        self.save()

    def rates(self, rates):
        """Log learning rates from tag → {step: rate}."""
        scalars = ScalarWriter(self.folder)
        for tag, values in rates.items():
            for step, value in values.items():
                scalars.add(step, {tag: value})
        scalars.close()

    def save(self, after=True):
        """Write a checkpoint with weights only, with a manifest."""
        path = self.folder / str(run_folder.CheckpointName(self.step, after))
        path.mkdir()
        weights = {
            name: t.detach().clone().contiguous() for name, t in padding.padded(self.model, self.anatomy).items()
        }
        kept = {}
        for name, tensor in weights.items():
            kept.setdefault(tensor.data_ptr(), name)
        save_file({name: weights[name] for name in kept.values()}, path / run_folder.WEIGHTS)
        config = copy.deepcopy(self.model.config)
        config.dtype, config.architectures = "float32", [type(self.model).__name__]
        config.save_pretrained(path)
        (path / run_folder.TRAINER_STATE).write_text(json.dumps({"num_input_tokens_seen": 10 * self.step}))
        for where in (path, self.folder):
            (where / run_folder.LINEAGE).write_text(self.lineage.to_json())
        vouch(path)
        return path


def vouch(checkpoint):
    """Write the manifest for the current files of a checkpoint."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(checkpoint.iterdir())
        if path.name != run_folder.MANIFEST
    }
    (checkpoint / run_folder.MANIFEST).write_text(json.dumps({"files": files}))


RATES = {run_folder.LR: {2: 0.1, 4: 0.3, 7: 0.2}}


def grown(folder, family):
    """A run with every way of growth; the layers of the last stack have heads, units and donors of all kinds."""
    run = Drifting(folder, family, heads=2, **OPTIONAL.get(family, {}))
    run.move(steps=2)
    run.grow(Insert(at=0, index=1, initializer="clone-noise", noise=0.1))
    run.move()
    run.grow(AddHeads(at=0, to=HEADS, initializer="clone", output="split"))
    run.move(steps=3)
    run.grow(Insert(at=0, index=2, initializer="random"))
    run.move()
    run.grow(WidenFFN(at=0, to=UNITS + 16, initializer="random"))
    run.move()
    run.grow(Swap(at=0, indices=[1, 2]))
    run.move(steps=2)
    run.save()
    run.rates(RATES)
    return run.folder
