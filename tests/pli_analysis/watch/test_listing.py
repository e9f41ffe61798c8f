"""`pli-analyze ls`: the state of each run in a folder."""

import shutil

import pandas as pd
import pytest

from pli_analysis.watch.listing import runs as listed
from pli_train.checkpointing.lock import Lock
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch
from tests.commands import call


@pytest.fixture
def folder(runs, config_of, tmp_path):
    """A finished run, one that was stopped, a fork of a fork's folder, and logs of another program."""
    folder = tmp_path / "runs"
    shutil.copytree(runs["gpt2"], folder / "done")
    launch.begin(config_of("gpt2"), folder / "more" / "early").run(until=5)
    (folder / "other").mkdir()
    (folder / "other" / "metrics.csv").write_text("step,loss\n1,2.0\n2,1.5\n")
    return folder


def test_each_run_has_a_row(folder):
    table = listed(folder).set_index("run")
    done, early, other = (table.loc[name] for name in ("done", "more/early", "other"))
    assert (done.state, done.step, done.steps) == ("finished", 12, 12)
    assert len(done["stack"].split()) == 5
    assert (early.state, early.step, early.steps, early["stack"]) == ("stopped", 5, 12, "b a")
    assert early.loss > done.loss > 1
    assert other.state == "logs" and pd.isna(other.step)


def test_a_damaged_run_does_not_hide_the_others(folder):
    (folder / "more" / "early" / run_folder.RUN).write_text("{")
    table = listed(folder).set_index("run")
    assert table["state"].to_dict() == {"done": "finished", "more/early": "damaged", "other": "logs"}


def test_a_run_that_trains_and_a_fork_say_so(folder):
    path = folder / "more" / "early"
    text = (path / run_folder.RUN).read_text().rstrip().removesuffix("}")
    (path / run_folder.RUN).write_text(text + ',"parent": {"name": "done", "path": "../done", "checkpoint": "x"}}')
    lock = Lock(path)
    [row] = listed(path).itertuples()
    lock.release()
    assert (row.state, row.parent) == ("training", "done")


def test_the_command_and_its_mistakes(folder, tmp_path):
    done = call("pli-analyze", "ls", folder, "--format", "csv")
    assert done.returncode == 0 and done.stdout == listed(folder).to_csv(index=False)
    empty = call("pli-analyze", "ls", cwd=tmp_path / "runs" / "other")
    assert (empty.returncode, empty.stderr) == (2, "error: runs: no such file or folder\n")
    with pytest.raises(BadInput, match="holds no runs; `pli-train run` makes runs"):
        listed(shutil.copytree(folder / "done" / run_folder.TOKENIZER, tmp_path / "none"))
