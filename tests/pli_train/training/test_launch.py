"""Where a new run may begin: in a folder that is not there yet, and nowhere else."""

import os
import sys
from pathlib import Path

import pytest

from pli_train import cli
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder
from pli_train.training import launch


@pytest.fixture
def paths(tmp_path):
    """Names of what may be there → paths."""
    there = {name: tmp_path / name for name in ("folder", "file", "link", "dangling", "link to a folder", "run")}
    there["folder"].mkdir()
    (there["folder"] / "notes.md").write_text("mine")
    there["file"].write_text("mine")
    there["link"].symlink_to(there["file"])
    there["dangling"].symlink_to(tmp_path / "nowhere")
    there["link to a folder"].symlink_to(there["folder"])
    there["run"].mkdir()
    (there["run"] / run_folder.RUN).write_text("{}")
    return there | {"device": Path(os.devnull)}


@pytest.mark.parametrize("name", ["folder", "file", "link", "dangling", "link to a folder", "device"])
def test_what_exists_and_is_no_run_is_refused_before_a_line_is_printed(paths, name, capfd, monkeypatch):
    path = paths[name]
    monkeypatch.setattr(sys, "argv", ["pli-train", "run", "tiny", "--out", str(path)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    out, err = capfd.readouterr()
    assert (done.value.code, out) == (2, "")
    assert err.splitlines() == [f"error: {path}: already exists and is no run; name another folder"]
    assert paths["file"].read_text() == "mine" and [path.name for path in paths["folder"].iterdir()] == ["notes.md"]


def test_a_run_is_to_be_resumed(paths):
    with pytest.raises(BadInput, match=r"run: already exists; resume it with `pli-train resume .*run`$"):
        launch.require_new(paths["run"])


def test_new_and_empty_folders_may_become_runs(tmp_path):
    launch.require_new(tmp_path / "new")
    launch.require_new(tmp_path)


def test_a_folder_that_a_killed_start_left_may_become_a_run(tmp_path):
    """What is there when the process dies while it writes run.json: the file's content under a random name."""
    (tmp_path / run_folder.TOKENIZER).mkdir()
    for name in (run_folder.LOCK, run_folder.PROBE, f"{run_folder.PARTIAL}a656bbd5b45692bc"):
        (tmp_path / name).write_bytes(b"")
    launch.require_new(tmp_path)
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(BadInput, match="is no run"):
        launch.require_new(tmp_path)
