"""Every kind of failure at every named point of writing a checkpoint: nothing is lost, and resume works.

The run: BERT, six steps with a checkpoint at each, one insertion. Only the newest checkpoint keeps its optimizer state,
and plain checkpoints are removed when there is a newer one, so that every point of `faults.BOUNDARIES` is reached. A
save reaches most points once: the third save is of an ordinary checkpoint, the fourth and fifth are around the
insertion, the sixth removes the optimizer state after growth, the eighth is the last.
"""

import os
import stat

import pytest

from pli_train.core.run_format import run_folder
from pli_train.core.run_format.faults import BOUNDARIES, KINDS
from tests.crash.kills import content_and_record

pytestmark = pytest.mark.crash

SAVES = ["0", "1", "2", "3-before", "3", "4", "5", "6"]
ORDINARY, BEFORE_GROWTH, AFTER_GROWTH, GROWN, LAST = 3, 4, 5, 6, 8
THINNING = tuple(name for name in BOUNDARIES if name.startswith(("light", "optimizer-removed", "removal")))
IN_SAVE = tuple(name for name in BOUNDARIES if name not in THINNING)
APPEARED = ("renamed", "run-synced", "run-lineage-begin", "run-lineage-written", "run-lineage-replaced")
SWEEP = [(name, kind, ORDINARY if name in IN_SAVE else 1) for name in BOUNDARIES for kind in KINDS]
NAMED_FAULTS = (
    "scalars-synced",
    "weights-written",
    "optimizer-written",
    "manifest-written",
    "partial-synced",
    *APPEARED,
)
ELSEWHERE = [
    *((name, kind, nth) for name in NAMED_FAULTS for kind in ("sigkill", "short") for nth in (AFTER_GROWTH, LAST)),
    *((name, "sigkill", BEFORE_GROWTH) for name in NAMED_FAULTS),
    *(("renamed", kind, nth) for kind in ("sigterm", "enospc", "eio") for nth in (BEFORE_GROWTH, AFTER_GROWTH, LAST)),
    *((name, "sigkill", 1) for name in NAMED_FAULTS),
    *((name, "sigkill", 3) for name in THINNING),
]
FIRED = set()


@pytest.fixture(scope="module")
def toml(toml_of):
    train = {"steps": 6, "block_size": 32, "batch_size": 2, "accumulation": 2, "log_every": 1, "eval_every": 6}
    overrides = {
        "train": train | {"eval_blocks": 2},
        "growth": {"schedule": "3@1", "initializer": "clone-noise", "noise": 0.1},
        "checkpoint": {"every": 1, "full_last": 1, "keep": 1},
    }
    return toml_of("bert", overrides, "faults")


@pytest.fixture(scope="module")
def unbroken(warm, toml, tmp_path_factory):
    """Contents of the run without faults."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    child = warm.start("run", toml, "-o", run, "-q")
    assert child.wait() == 0, child.errors
    return content_and_record(run)


def whole(run):
    """Return the names of complete checkpoints, in order."""
    return [str(name) for name, path in run_folder.checkpoints(run) if run_folder.flaw(path) is None]


def recovers(warm, run, unbroken):
    """Resume, and check that the result has the bytes of the run without faults and no partial files."""
    child = warm.start("resume", run, "-q")
    assert (child.wait(), child.errors) == (0, "")
    assert content_and_record(run) == unbroken
    assert not list(run.rglob(f"{run_folder.PARTIAL}*"))


@pytest.mark.parametrize(("name", "kind", "nth"), [*SWEEP, *ELSEWHERE])
def test_a_fault_costs_at_most_the_checkpoint_being_written(warm, toml, unbroken, tmp_path, name, kind, nth):
    run, log = tmp_path / "run", tmp_path / "log"
    child = warm.start(
        "run", toml, "-o", run, "-q", env={"PLI_FAULT": f"{name}:{kind}:{nth}", "PLI_FAULT_LOG": str(log)}
    )
    code = child.wait()
    assert log.read_text() == f"{name}:{kind}:{nth}\n", f"it never fired; exit code {code}: {child.errors}"
    FIRED.add((name, kind))

    there = whole(run)
    save = nth if name in IN_SAVE else nth + 1
    appeared = save if name in APPEARED or name in THINNING else save - 1
    if kind == "sigkill":
        assert code == -9
    elif kind == "sigterm":
        assert code in (130, 0) and child.errors.count("\n") == (code == 130), child.errors
        assert code == 130 or nth == LAST
        appeared = max(appeared, save)
    else:
        assert (code, child.errors.count("\n")) == (1, 1), child.errors
        assert child.errors.startswith("error: ")
        assert ("no space left" if kind == "enospc" else "input/output error") in child.errors
        assert f"then run: pli-train resume {run}" in child.errors
    if appeared:
        newest = run_folder.CheckpointName.parse(there[-1])
        assert newest >= run_folder.CheckpointName.parse(f"checkpoint-{SAVES[appeared - 1]}")
        assert run_folder.is_full(run / there[-1]), "the newest cannot be resumed from"
    assert len(run_folder.checkpoints(run)) == len(there), "a checkpoint that is not whole under a whole one's name"

    recovers(warm, run, unbroken)


def test_every_place_failed_in_every_way():
    assert {(name, kind) for name, kind in FIRED} == {(name, kind) for name in BOUNDARIES for kind in KINDS}


@pytest.mark.parametrize("name", THINNING)
@pytest.mark.parametrize("kind", ["sigkill", "eio"])
def test_a_fault_while_resume_puts_the_folder_in_order_costs_nothing(warm, toml, unbroken, tmp_path, name, kind):
    """Kill before old checkpoints are removed, so that the resume removes them; the fault is then in the resume."""
    run, log = tmp_path / "run", tmp_path / "log"
    save = ORDINARY if name.startswith("removal") else GROWN
    child = warm.start("run", toml, "-o", run, "-q", env={"PLI_FAULT": f"run-lineage-begin:sigkill:{save}"})
    assert child.wait() == -9
    there = whole(run)
    child = warm.start("resume", run, "-q", env={"PLI_FAULT": f"{name}:{kind}", "PLI_FAULT_LOG": str(log)})
    assert child.wait() == (-9 if kind == "sigkill" else 1)
    assert log.read_text() == f"{name}:{kind}:1\n"
    assert child.errors.count("\n") == (kind == "eio"), child.errors
    assert whole(run)[-1] == there[-1]
    recovers(warm, run, unbroken)


def test_two_faults_in_a_row_cost_no_more(warm, toml, unbroken, tmp_path):
    run = tmp_path / "run"
    for command in (("run", toml, "-o", run), ("resume", run), ("resume", run), ("resume", run)):
        child = warm.start(*command, "-q", env={"PLI_FAULT": "manifest-written:sigkill:2"})
        assert child.wait() == -9
    assert len(whole(run)) >= 2
    recovers(warm, run, unbroken)


@pytest.fixture
def read_only():
    """Remove all write permissions below a folder, and restore them at the end."""
    changed = []

    def lock(folder):
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                changed.append((path, stat.S_IMODE(path.stat().st_mode)))
                path.chmod(0o555)

    yield lock
    for path, mode in changed:
        if path.exists():
            path.chmod(mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.name != "posix", reason="needs permission bits")
def test_a_read_only_run_is_reported_in_one_line_and_left_as_it_was(warm, toml, unbroken, tmp_path, read_only):
    """File permissions apply to the command even if the tests run as root."""
    run = tmp_path / "run"
    child = warm.start("run", toml, "-o", run, "-q", env={"PLI_FAULT": f"renamed:sigkill:{ORDINARY}"})
    assert child.wait() == -9
    before = sorted(run.rglob("*"))
    read_only(run)
    (run / run_folder.LOCK).chmod(0o444)
    child = warm.start("resume", run, "-q", powerless=True)
    assert (child.wait(), child.errors.count("\n")) == (1, 1), child.errors
    assert "permission denied" in child.errors and str(run) in child.errors
    child = warm.start("run", toml, "-o", run / "inside", "-q", powerless=True)
    assert (child.wait(), child.errors.count("\n")) == (1, 1), child.errors
    assert "permission denied" in child.errors
    assert sorted(run.rglob("*")) == before
    for path in (run, *run.rglob("*")):
        path.chmod(0o755)
    recovers(warm, run, unbroken)
