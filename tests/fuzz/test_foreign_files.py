"""Broken and hostile files of other libraries: readers return content or raise a one-line error."""

import functools
import random
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from pli_analysis import api
from pli_analysis.metrics.lineage import write
from pli_analysis.metrics.maps import embedding
from pli_analysis.runs.opening import open_run
from pli_train.core.anatomy import axes
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests.fuzz.changes import mutated
from tests.fuzz.watch import MEMORY, SECONDS, Blind, Watch
from tests.trainers import train

AT = "checkpoint-8"
FILES = (run_folder.CONFIG, run_folder.WEIGHTS, run_folder.TRAINER_STATE, run_folder.WEIGHTS_INDEX, run_folder.LINEAGE)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return train(tmp_path_factory.mktemp("foreign") / "out")


@pytest.fixture(scope="module")
def on_progress():
    """An audit hook, after the lazy imports that a config with other heads would need."""
    axes.rows(np.zeros((4, 2)), "(head dim) model", "head", {"head": 2})
    return Watch()


def folder_for(file, output, to):
    """Copy the run so that `AT` has this file: shards for an index, a lineage in each checkpoint for a lineage."""
    copy = Path(shutil.copytree(output, to))
    if file == run_folder.WEIGHTS_INDEX:
        model = AutoModelForCausalLM.from_pretrained(copy / AT)
        (copy / AT / run_folder.WEIGHTS).unlink()
        model.save_pretrained(copy / AT, max_shard_size="40KB")
    if file == run_folder.LINEAGE:
        lineage = open_run(copy).lineage
        for checkpoint in copy.glob("checkpoint-*"):
            write(lineage, checkpoint / run_folder.LINEAGE)
    return copy


def read_everything(output):
    """How many readers gave content; every other one gave a named error. Most read one run, as a report does."""
    opened = functools.cache(lambda: open_run(output))
    readers = (
        lambda: api.drift(opened(), "all"),
        lambda: opened().lineage,
        lambda: opened().confidence,
        lambda: opened().notes,
        lambda: embedding.embed(opened()).table,
        lambda: [c.tokens for c in opened().checkpoints],
        lambda: (opened().record, opened().training, opened().tokenizer),
        lambda: opened().scalars,
        lambda: api.drift(open_run([output / AT])),
        lambda: open_run([output / "checkpoint-4", output / AT]).lineage,
    )
    gave = 0
    for reader in readers:
        try:
            reader()
            gave += 1
        except BadInput as error:
            assert str(error) and "\n" not in str(error), error
    return gave


@pytest.mark.parametrize("file", FILES)
def test_a_broken_foreign_file_is_a_named_error_without_side_effects(file, output, on_progress, fuzz_cases, tmp_path):
    folder = folder_for(file, output, tmp_path / "out")
    everything = read_everything(folder)
    path, whole, before = folder / AT / file, 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert everything == 10
    good = path.read_bytes()
    for watch, cases, seed in ((Blind(), 20, "warm"), (on_progress, fuzz_cases // 2, 0)):
        chance = random.Random(f"{file} {cases} {seed}")
        for number in range(cases):
            bad = mutated(path, good, chance)
            path.write_bytes(bad)
            began = time.process_time()
            try:
                gave = watch.during(folder, lambda: read_everything(folder))
            except Exception as error:
                raise AssertionError(f"{file}, case {number} of seed {seed}: {error!r}: {bad[:2000]!r}") from error
            finally:
                path.write_bytes(good)
            assert not watch.seen, (number, watch.seen[:3], bad[:2000])
            assert time.process_time() - began < SECONDS, (number, bad[:2000])
            whole += gave == everything
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY
    assert read_everything(folder) == everything
