"""Broken and hostile files: reading gives content or one named error, and nothing else happens on the way.

An audit hook watches what Python itself is asked to do meanwhile: open a path outside the run's folder, import,
unpickle, execute. What libraries load lazily is loaded before it looks.
"""

import copy
import json
import os
import random
import resource
import shutil
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pli_analysis.run import Run
from pli_train import checkpoint, run_folder, stored, trainer
from pli_train import config as configs
from pli_train.anatomy import TABLES, families
from pli_train.errors import BadInput, PliError
from pli_train.lineage import BadLineage
from pli_train.model import AUTO_CLASS
from pli_train.verify import verify
from tests.pli_train.test_trainer import content, vouch

NAMED = (PliError, BadLineage)
SECONDS, MEMORY = 2.0, 2**30


class Watch:
    """What the interpreter was asked to do while it looked."""

    def __init__(self):
        self.root, self.seen = None, []
        sys.addaudithook(self._hear)

    def _hear(self, event, args):
        if self.root is None:
            return
        if event in ("open", "os.scandir", "os.listdir") and isinstance(args[0], str | os.PathLike):
            path = os.path.realpath(args[0])
            if not path.startswith((self.root, str(TABLES))):
                self.seen.append((event, path))
        elif event in ("import", "pickle.find_class", "exec", "compile", "os.system", "subprocess.Popen", "socket.connect"):
            self.seen.append((event, str(args[0])[:200]))

    def during(self, root, work):
        self.root, self.seen = os.path.realpath(root), []
        try:
            return work()
        finally:
            self.root = None


@pytest.fixture(scope="session")
def watch():
    return Watch()


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    """A small part of a finished run: two steps, one event."""
    run = tmp_path_factory.mktemp("reading") / "run"
    shutil.copytree(runs["gpt2"], run)
    for name, path in run_folder.checkpoints(run):
        if name.step not in (0, 3):
            shutil.rmtree(path)
    for family in families():  # what a config that names another family would load
        declared, (auto, parts) = stored.declared(family), (AUTO_CLASS, stored.anatomy.family(family))
        assert declared
        import transformers

        with torch.device("meta"):
            getattr(transformers, auto[parts.task]).from_config(transformers.AutoConfig.for_model(family))
    return run


def read_everything(run, at="checkpoint-3"):
    """All that reads a run's files; each gives content or a named error. Returns how many gave content."""
    readers = (
        lambda: Run.open(run).record,
        lambda: Run.open(run).parent,
        lambda: str(Run.open(run).lineage),
        lambda: Run.open(run).drift(),
        lambda: [c.tokens for c in Run.open(run, hashes=True).checkpoints],
        lambda: list(verify(run)),
        lambda: checkpoint.newest(run, lambda line: None),
        lambda: checkpoint.read(run / at),
        lambda: configs.of_run(run),
    )
    gave = 0
    for reader in readers:
        try:
            reader()
            gave += 1
        except NAMED as error:
            assert str(error) and "\n" not in str(error) or isinstance(error, BadInput), error
    return gave


HOSTILE = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "..", "../x", "/etc/passwd", "a\0b", "x" * 5000, "gpt2", "bert", "a", "b", "a.h0", "builtins.exec"),
    *([], {}, [[]], [None], [1, 2], ["a", "a"], {"": ""}, {"a": {}}, {"auto_map": {"AutoModel": "x.Y"}}),
)
KEYS = ("auto_map", "_attn_implementation", "quantization_config", "num_labels", "dtype", "to_dict", "__class__")
KEYS += ("trust_remote_code", "base_model_tp_plan", "../x", "n_layer", "vocab_size", "step", "stack", "heads")


def nodes(document):
    """Every (container, key) of a JSON document."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from nodes(document[key])


def bent(document, chance):
    """A JSON document with one thing in it changed."""
    document = copy.deepcopy(document)
    places = list(nodes(document))
    if not places:
        return chance.choice(HOSTILE)
    box, key = chance.choice(places)
    what = chance.randrange(5)
    if what == 0:
        del box[key]
    elif what == 1 and isinstance(box, dict):
        box[chance.choice(KEYS)] = chance.choice(HOSTILE)
    elif what == 2:
        other, from_ = chance.choice(places)
        box[key] = copy.deepcopy(other[from_]) if from_ in (other if isinstance(other, dict) else range(len(other))) else 0
    elif what == 3 and isinstance(box[key], int | float):
        box[key] = box[key] * chance.choice((-1, 2, 10, 10**6, 10**12)) + chance.choice((-1, 0, 1))
    else:
        box[key] = chance.choice(HOSTILE)
    return document


def torn(data, chance):
    """Bytes with something torn, flipped or thrown in."""
    at, end = sorted((chance.randrange(len(data) + 1), min(len(data), chance.randrange(len(data) + 1))))
    what = chance.randrange(7)
    if what == 0:
        return data[:at]
    if what == 1:
        flipped = bytearray(data)
        for _ in range(chance.randrange(1, 9)):
            flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(flipped)
    if what == 2:
        return data[:at] + data[end:]
    if what == 3:
        return data[:at] + chance.randbytes(chance.randrange(1, 64)) + data[at:]
    if what == 4:
        return data[:at] + data[at:end][:4096] * 2 + data[end:]
    if what == 5:
        return chance.choice((b"[", b'{"a":', b'{"files":{"a":')) * chance.choice((10, 1000, 200_000))
    return chance.choice((b"", b"null", b"[]", b"{}", b"\xff\xfe", b"\0" * 64, b"1e999999", b"9" * 10_000, b'"\\ud800"'))


def bent_header(data, chance):
    """A safetensors file with another header, or another length of it."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    what = chance.randrange(3)
    if what == 0:
        size = chance.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", size) + data[8:]
    if what == 1:
        header = torn(header, chance)
    else:
        header = json.dumps(bent(json.loads(header), chance)).encode()
    return struct.pack("<Q", len(header)) + header + rest


def mutated(path, data, chance):
    if path.suffix == ".safetensors":
        return bent_header(data, chance) if chance.random() < 0.7 else torn(data, chance)
    return json.dumps(bent(json.loads(data), chance)).encode() if chance.random() < 0.7 else torn(data, chance)


AT = "checkpoint-3"
FILES = [
    *(run_folder.RUN, run_folder.LINEAGE),
    *(f"{AT}/{name}" for name in (run_folder.MANIFEST, run_folder.LINEAGE, run_folder.CONFIG, stored.GENERATION)),
    *(f"{AT}/{name}" for name in (run_folder.TRAINER_STATE, run_folder.WEIGHTS, run_folder.OPTIMIZER)),
]


def attack(run, file, cases, seed, watch, read=read_everything):
    """Read a run with one of its files changed, again and again; returns how often it still gave all content."""
    path, chance = run / file, random.Random(f"{file} {seed}")
    good, manifest = path.read_bytes(), (run / AT / run_folder.MANIFEST).read_bytes()
    before, whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0
    everything = read(run)
    for number in range(cases):
        bad = mutated(path, good, chance)
        path.write_bytes(bad)
        believed = path.parent.name == AT and path.name != run_folder.MANIFEST and chance.random() < 0.8
        if believed:
            vouch(path)
        began = time.perf_counter()
        try:
            gave = watch.during(run, lambda: read(run))
        except Exception as error:
            raise AssertionError(f"{file}, case {number} of seed {seed}: {error!r}: {bad[:2000]!r}") from error
        finally:
            path.write_bytes(good)
            (run / AT / run_folder.MANIFEST).write_bytes(manifest)
        assert not watch.seen, (number, watch.seen[:3], bad[:2000])
        assert time.perf_counter() - began < SECONDS, (number, bad[:2000])
        whole += gave == everything
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY
    return whole


@pytest.mark.parametrize("file", FILES)
def test_a_broken_file_is_a_named_error_and_nothing_else_happens(run, file, watch):
    attack(run, file, 40, "warm", watch=_Blind())
    attack(run, file, 250, 0, watch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("file", FILES)
def test_broken_files_at_length(run, file, seed, watch):
    attack(run, file, 300, "warm", watch=_Blind())
    attack(run, file, 2500, seed, watch)


class _Blind:
    seen = ()

    def during(self, root, work):
        return work()


@pytest.mark.parametrize("file", [*FILES[2:7], FILES[8]])
def test_resuming_from_a_broken_file_is_a_named_error_or_goes_on(config_of, run, file, watch):
    """One update is done where the trainer takes the state."""

    def resumed(folder):
        try:
            made = trainer.resume(config_of("gpt2"), folder)
            made._grow = lambda: None
            made._update()
        except NAMED:
            return 0
        return 1

    attack(run, file, 25, "resume", _Blind(), resumed)
