"""Random changes of `trainer_state.json`: readers of its history return content or raise a one-line error."""

import json
import random
import resource
import shutil
import time

import numpy as np
import pytest

from pli_analysis import api
from pli_analysis.metrics import loss as loss_metric
from pli_analysis.metrics.comparison import compare, curves
from pli_analysis.metrics.drift.rates import rates_of
from pli_analysis.report import overview
from pli_analysis.runs import paths
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from tests.fuzz.changes import bent, torn
from tests.fuzz.watch import MEMORY, SECONDS, Blind, Watch
from tests.trainers import train

AT = "checkpoint-12"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return train(tmp_path_factory.mktemp("history") / "out", include_num_input_tokens_seen="all")


def logged(path):
    """Return what the only run at a path logged."""
    ((_, scalars),) = paths.logged(path)
    return scalars


def changed(good, chance):
    """Return a file's content with up to three changes, mostly valid JSON."""
    if chance.random() < 0.2:
        return torn(good, chance)
    document = json.loads(good)
    for _ in range(chance.randrange(1, 4)):
        document = bent(document, chance)
    return json.dumps(document).encode()


def readers(output):
    """What reads a history; each fails by itself."""
    run = open_run(output)
    return (
        lambda: sound(run.scalars),
        lambda: sound(logged(output / AT / run_folder.TRAINER_STATE)),
        lambda: loss_metric.loss(run.scalars),
        lambda: (rates_of(run).at(3), rates_of(run).phase(2, 8)),
        lambda: [checkpoint.tokens for checkpoint in run.checkpoints],
        lambda: api.drift(run),
        lambda: compare.compared(curves.read([str(output)]), "step"),
        lambda: compare.compared(curves.read([str(output)]), "tokens"),
        lambda: (overview.summary(run, []), overview.loss(run)),
    )


def sound(scalars):
    """Check that steps increase and tokens are positive."""
    for of in scalars.columns.values():
        assert len(of.steps) and (np.diff(of.steps) > 0).all() and of.steps[0] >= 0
    assert (scalars.of(run_folder.TOKENS).values > 0).all()


def read_everything(output):
    """Return the number of readers that return content; all others must raise a named error."""
    gave = 0
    for reader in readers(output):
        try:
            reader()
            gave += 1
        except BadInput as error:
            assert str(error) and "\n" not in str(error), error
    return gave


@pytest.mark.parametrize("events", [True, False], ids=["with event files", "alone"])
def test_a_changed_history_is_content_or_a_named_error_without_side_effects(events, output, fuzz_cases, tmp_path):
    folder = shutil.copytree(output, tmp_path / "out")
    if not events:
        shutil.rmtree(folder / "runs")
    path, before = folder / AT / run_folder.TRAINER_STATE, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    good, everything, whole = path.read_bytes(), read_everything(folder), 0
    assert everything == len(readers(folder))
    for watch, cases in ((Blind(), 20), (Watch(), fuzz_cases // 5)):
        chance = random.Random(f"{events} {cases}")
        for number in range(cases):
            bad = changed(good, chance)
            path.write_bytes(bad)
            began = time.process_time()
            try:
                whole += watch.during(folder, lambda: read_everything(folder)) == everything
            except Exception as error:
                raise AssertionError(f"case {number} of {cases}: {error!r}: {bad[:3000]!r}") from error
            finally:
                path.write_bytes(good)
            assert not watch.seen, (number, watch.seen[:3], bad[:2000])
            assert time.process_time() - began < SECONDS, (number, bad[:2000])
    assert whole
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MEMORY
    assert read_everything(folder) == everything
