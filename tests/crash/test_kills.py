"""A run killed at any moment resumes to the bytes of an uninterrupted run, and can be read at any time.

Moments are drawn with a seed: a number of checkpoints to wait for, uniform over the run, then a pause of up to about
one step, or of up to the start-up time if these checkpoints exist already. The order of data depends only on the step,
and there are no separate data workers that could be killed alone.

PLI_KILLS is the number of kills (default 40), PLI_KILLS_SEED the seed of the moments.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from safetensors.torch import load_file, save_file

from pli_train.core.run_format import run_folder
from tests.crash.conftest import KILLED_FAMILIES
from tests.crash.kills import command, content_and_record, kill_now_and_then
from tests.crash.onlooker import Onlooker, Story

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("PLI_KILLS", "40"))
SEED = int(os.environ.get("PLI_KILLS_SEED", "0"))
KILLS_OF_A_RUN = 10
TRIALS = [(KILLED_FAMILIES[n % len(KILLED_FAMILIES)], n) for n in range(-(-KILLS // KILLS_OF_A_RUN))]


@pytest.fixture(scope="module")
def finals(unkilled):
    """Readable contents and file contents of each uninterrupted run."""
    return {family: (Story(folder), content_and_record(folder)) for family, folder in unkilled.items()}


@pytest.fixture(scope="module")
def record():
    """Progress at each kill, printed at the end."""
    kills = Counter()
    yield kills
    print(f"\n{kills.total()} kills; checkpoints at each kill: {sorted(kills.items())}", file=sys.stderr)


@pytest.mark.parametrize(("family", "number"), TRIALS, ids=[f"{family}-{number}" for family, number in TRIALS])
def test_a_run_killed_at_random_moments_ends_as_the_unkilled_one(
    warm, toml_of, finals, record, tmp_path, family, number
):
    run, toml, draw = tmp_path / "run", toml_of(family), random.Random(f"{SEED}/{number}")
    final, expected = finals[family]
    onlooker = Onlooker(run, final)
    onlooker.start()
    killed_at = []
    try:
        while len(killed_at) < KILLS_OF_A_RUN:
            missing = KILLS_OF_A_RUN - len(killed_at)
            moments = sorted(draw.randrange(len(final.checkpoints) + 1) for _ in range(missing))
            killed_at += kill_now_and_then(lambda: warm.start(*command(toml, run)), moments, run, draw)
        child = warm.start(*command(toml, run))
        assert child.wait() == 0, child.errors
    finally:
        onlooker.stop()
    record.update(killed_at)
    assert content_and_record(run) == expected
    assert not list(run.glob(f"{run_folder.PARTIAL}*"))
    assert not onlooker.complaints
    assert onlooker.reads > 5 and max(onlooker.lengths) == len(final.checkpoints)


def test_kills_came_all_over_the_run(record, finals):
    """There are kills in every third of the run, and before its first checkpoint."""
    total = len(finals["gpt2"][0].checkpoints)
    thirds = Counter(min(3 * at // (total + 1), 2) for at in record.elements())
    assert record.total() >= KILLS and min(thirds[third] for third in range(3)) >= KILLS // 8
    assert record[0] >= 1


def test_a_run_whose_older_checkpoints_are_removed_can_be_read_all_the_while(warm, toml_of, finals, tmp_path):
    """Readers skip checkpoints that are removed meanwhile; the others are as in the run that keeps all."""
    run, draw = tmp_path / "run", random.Random(SEED)
    toml = toml_of("gpt2", {"checkpoint": {"every": 1, "full_last": 1, "keep": 1}}, "thinned")
    onlooker = Onlooker(run, finals["gpt2"][0], thinned=True)
    onlooker.start()
    try:
        kill_now_and_then(lambda: warm.start(*command(toml, run)), [4, 9], run, draw)
        child = warm.start(*command(toml, run))
        assert child.wait() == 0, child.errors
    finally:
        onlooker.stop()
    assert not onlooker.complaints
    assert onlooker.reads > 5
    ours, theirs = content_and_record(run), finals["gpt2"][1]
    assert len(ours) < len(theirs)
    assert {key for key in ours if ours[key] != theirs[key]} == {"config"}


class Fresh:
    """A `pli-train` in a new interpreter, with the interface of a forked one."""

    def __init__(self, *argv):
        arguments = [sys.executable, "-m", "pli_train.cli", *map(str, argv), "--quiet"]
        self._process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)

    def running(self):
        return self._process.poll() is None

    def kill(self, number):
        self._process.send_signal(number)

    def wait(self):
        self.errors = self._process.communicate()[1] if self._process.returncode is None else ""
        return self._process.returncode


def test_fresh_interpreters_die_and_go_on_alike(toml_of, finals, tmp_path):
    """Commands in new interpreters behave as the forked commands of the other tests."""
    run, toml, draw = tmp_path / "run", toml_of("bert"), random.Random(SEED)
    moments = [0, 4, 9, 14]
    killed_at = kill_now_and_then(lambda: Fresh(*command(toml, run)), moments, run, draw, start_up=5)
    assert len(killed_at) == len(moments)
    child = Fresh(*command(toml, run))
    assert child.wait() == 0, child.errors
    assert content_and_record(run) == finals["bert"][1]


@pytest.mark.parametrize("message", [True, False], ids=["with-its-hash", "behind-its-hash"])
@pytest.mark.parametrize("family", KILLED_FAMILIES)
def test_one_moment_changed_between_kill_and_resume_is_noticed(warm, toml_of, finals, tmp_path, family, message):
    """Negative control: the comparison detects one changed number in a moment if resume loads it.

    If the manifest still has the old hash, resume skips that checkpoint and ends with the same bytes.
    """
    run, toml = tmp_path / "run", toml_of(family)
    assert len(kill_now_and_then(lambda: warm.start(*command(toml, run)), [7], run, random.Random(SEED))) == 1
    newest = run_folder.newest_checkpoint(run, print)
    tensors = load_file(newest / run_folder.OPTIMIZER)
    moment = tensors[next(name for name in sorted(tensors) if name.startswith("exp_avg/") and "<a>" in name)]
    moment.view(-1)[0] += 1e-3
    save_file(tensors, newest / run_folder.OPTIMIZER)
    if message:
        manifest = json.loads((newest / run_folder.MANIFEST).read_text())
        hashed = hashlib.sha256((newest / run_folder.OPTIMIZER).read_bytes()).hexdigest()
        manifest["files"][run_folder.OPTIMIZER]["sha256"] = hashed
        (newest / run_folder.MANIFEST).write_text(json.dumps(manifest))
    child = warm.start("resume", run)
    assert child.wait() == 0, child.errors
    ours, theirs = content_and_record(run), finals[family][1]
    assert ours.keys() == theirs.keys()
    different = {key for key in ours if ours[key] != theirs[key]}
    if not message:
        assert "its hash differs" in child.errors
        assert not different
        return
    last = finals[family][0].checkpoints[-1]
    assert {f"{last}/{run_folder.WEIGHTS}", f"{last}/{run_folder.OPTIMIZER}", f"{last}/state"} <= different
    assert f"checkpoint-3/{run_folder.WEIGHTS}" not in different
