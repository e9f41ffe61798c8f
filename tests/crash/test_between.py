"""Changes to a run between a kill and the resume: the clock is set, files are lost, folders become read-only."""

import random
import shutil
import signal
import time

import pytest

from pli_analysis.runs.opening import open_run
from pli_train.core.run_format import run_folder
from tests.crash.kills import command, content_and_record, kill_now_and_then, progress
from tests.crash.onlooker import Story

pytestmark = pytest.mark.crash

DAY = 86400.0
MOMENTS = [3, 7, 12]


@pytest.fixture(scope="module")
def finals(unkilled):
    return {family: (Story(folder), content_and_record(folder)) for family, folder in unkilled.items()}


@pytest.mark.parametrize(
    "days", [(0, -3, -6, -9), (0, 3, -3, 0), (0, 5, 10, -20)], ids=["back", "forth-and-back", "ahead-then-far-back"]
)
def test_a_clock_that_jumps_between_kills_changes_nothing(warm, toml_of, finals, tmp_path, days):
    run, toml, clocks = tmp_path / "run", toml_of("gpt2"), iter(days)

    def start():
        return warm.start(*command(toml, run), clock=next(clocks) * DAY)

    assert len(kill_now_and_then(start, MOMENTS, run, random.Random(0))) == len(MOMENTS)
    child = start()
    assert child.wait() == 0, child.errors
    assert content_and_record(run) == finals["gpt2"][1]
    assert Story(run).contradicts(finals["gpt2"][0]) is None
    files = sorted(run.glob(run_folder.SCALARS))
    assert [run_folder.order_of(path) for path in files] == sorted({run_folder.order_of(path) for path in files})
    assert len(files) == len(MOMENTS) + 1


def test_a_clock_that_jumps_while_training_changes_nothing(warm, toml_of, finals, tmp_path):
    """Each time the clock is read, it is a day earlier."""
    run = tmp_path / "run"
    child = warm.start("run", toml_of("gpt2"), "-o", run, drift=-DAY)
    assert child.wait() == 0, child.errors
    assert content_and_record(run) == finals["gpt2"][1]
    seconds = open_run(run).scalars.table(run_folder.SECONDS)["value"]
    assert seconds.is_monotonic_increasing and seconds.iloc[-1] < 60


def killed_at_nine(warm, toml_of, folder):
    """Make a run that was killed at nine checkpoints or a few more. Return its checkpoints."""
    moments = [9]
    assert kill_now_and_then(lambda: warm.start(*command(toml_of("gpt2"), folder)), moments, folder, random.Random(1))
    return [path for _, path in run_folder.checkpoints(folder)]


def _lose_newest(folder, found):
    shutil.rmtree(found[-1])


def _lose_optimizer(folder, found):
    (found[-1] / run_folder.OPTIMIZER).unlink()


def _lose_weights(folder, found):
    (found[-1] / run_folder.WEIGHTS).unlink()


def _lose_manifest(folder, found):
    (found[-1] / run_folder.MANIFEST).unlink()


def _cut_state(folder, found):
    path = found[-1] / run_folder.TRAINER_STATE
    path.write_bytes(path.read_bytes()[:100])


def _lose_lineage(folder, found):
    (folder / run_folder.LINEAGE).unlink()


def _leave_partials(folder, found):
    shutil.copytree(found[-1], folder / f"{run_folder.PARTIAL}checkpoint-99")
    (folder / f"{run_folder.PARTIAL}{run_folder.LINEAGE}").write_text("{")


@pytest.mark.parametrize(
    "loss",
    [_lose_newest, _lose_optimizer, _lose_weights, _lose_manifest, _cut_state, _lose_lineage, _leave_partials],
    ids=lambda loss: loss.__name__.strip("_"),
)
def test_what_gets_lost_between_kill_and_resume_is_trained_again(warm, toml_of, finals, tmp_path, loss):
    run = tmp_path / "run"
    loss(run, killed_at_nine(warm, toml_of, run))
    child = warm.start("resume", run)
    assert child.wait() == 0, child.errors
    assert content_and_record(run) == finals["gpt2"][1]
    assert not list(run.glob(f"{run_folder.PARTIAL}*"))


def test_a_run_whose_checkpoints_are_all_gone_starts_over(warm, toml_of, finals, tmp_path):
    run = tmp_path / "run"
    for path in killed_at_nine(warm, toml_of, run):
        shutil.rmtree(path)
    child = warm.start("resume", run)
    assert child.wait() == 0, child.errors
    assert content_and_record(run) == finals["gpt2"][1]


def test_a_run_that_lost_its_record_says_so(warm, toml_of, tmp_path):
    run = tmp_path / "run"
    killed_at_nine(warm, toml_of, run)
    (run / run_folder.RUN).unlink()
    child = warm.start("resume", run)
    assert child.wait() == 2
    assert child.errors.count("\n") == 1 and f"not a run, it holds no {run_folder.RUN}" in child.errors


def test_lost_scalars_cost_no_weights(warm, toml_of, finals, tmp_path):
    """Event files are not needed for training: without them it resumes, but earlier scalars are lost."""
    run = tmp_path / "run"
    killed_at_nine(warm, toml_of, run)
    for path in run.glob(run_folder.SCALARS):
        path.unlink()
    child = warm.start("resume", run)
    assert child.wait() == 0, child.errors
    ours, theirs = content_and_record(run), finals["gpt2"][1]
    assert {key: value for key, value in ours.items() if key.startswith("checkpoint-")} == {
        key: value for key, value in theirs.items() if key.startswith("checkpoint-")
    }
    assert set(ours[run_folder.LOSS].items()) < set(theirs[run_folder.LOSS].items())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "sigint"])
def test_asked_to_stop_it_checkpoints_and_goes_on_to_the_same_end(warm, toml_of, finals, tmp_path, number):
    run, toml, stopped = tmp_path / "run", toml_of("gpt2"), 0
    for _ in range(3):
        child, there = warm.start(*command(toml, run)), progress(run)
        while child.running() and progress(run) < there + 4:
            time.sleep(0.001)
        child.kill(number)
        if child.wait() != 0:  # otherwise it had already finished
            assert child.wait() == 130, child.errors
            assert f"resume with: pli-train resume {run}" in child.errors
            stopped += 1
    child = warm.start(*command(toml, run))
    assert child.wait() == 0, child.errors
    assert stopped >= 2
    assert content_and_record(run) == finals["gpt2"][1]


def test_a_folder_that_a_kill_left_without_its_record_is_begun_anew(warm, toml_of, finals, tmp_path):
    """Incomplete files that a process writes before run.json are overwritten; a folder with other files is refused."""
    run = tmp_path / "run"
    (run / run_folder.TOKENIZER).mkdir(parents=True)
    (run / run_folder.TOKENIZER / "tokenizer.json").write_text('{"half')
    (run / f"{run_folder.PARTIAL}{run_folder.RUN}").write_text('{"half')
    (run / run_folder.LOCK).write_text("1\n")
    (run / "notes.txt").write_text("mine")
    child = warm.start("run", toml_of("gpt2"), "-o", run)
    assert child.wait() == 2 and "already exists" in child.errors
    (run / "notes.txt").unlink()
    child = warm.start("run", toml_of("gpt2"), "-o", run)
    assert child.wait() == 0, child.errors
    assert content_and_record(run) == finals["gpt2"][1]
    assert not list(run.rglob(f"{run_folder.PARTIAL}*"))
