"""What is read once is not read again; what is damaged, stale or gone is never believed."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pli_analysis import api
from pli_analysis.metrics.drift import drift
from pli_analysis.runs.file_reader import Files
from pli_analysis.runs.opening import open_run
from pli_analysis.weights import measurement
from pli_train.core import cache
from pli_train.core.run_format import run_folder
from pli_train.growth.operators.insert import Insert
from tests.drifting import Drifting, vouch

ROOT = Path(__file__).parents[3]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(tmp_path, kept):
    run = Drifting(tmp_path / "run", "gpt2")
    run.move()
    run.save()
    run.move()
    run.grow(Insert(at=0, index=1, initializer="clone"))
    for _ in range(3):
        run.move()
        run.save()
    return run


@pytest.fixture
def reads(monkeypatch):
    """The checkpoints that weights are read of, an entry each time."""
    seen, handle = [], Files.handle
    monkeypatch.setattr(Files, "handle", lambda self, path: (seen.append(path.parent.name), handle(self, path))[1])
    return seen


def test_a_second_call_reads_no_weights(made, reads):
    first = api.drift(open_run(made.folder), "all")
    assert len(set(reads)) == 7
    reads.clear()
    assert api.drift(open_run(made.folder), "all").equals(first)
    assert api.drift(open_run(made.folder), "head").equals(first[first["part_type"] == "head"].reset_index(drop=True))
    assert reads == []


def test_one_new_checkpoint_is_read_beside_births_and_the_one_before(made, reads, kept):
    api.drift(open_run(made.folder))
    made.move()
    made.save()
    reads.clear()
    table = api.drift(open_run(made.folder))
    assert set(reads) == {"checkpoint-0", "checkpoint-2", "checkpoint-5", "checkpoint-6"}
    shutil.rmtree(kept)
    assert api.drift(open_run(made.folder)).equals(table)


def test_a_thinned_checkpoint_costs_the_one_after_it(made, reads):
    api.drift(open_run(made.folder))
    shutil.rmtree(made.folder / "checkpoint-4")
    reads.clear()
    table = api.drift(open_run(made.folder))
    assert set(reads) == {"checkpoint-0", "checkpoint-2", "checkpoint-3", "checkpoint-5"}
    assert not table["checkpoint"].eq("checkpoint-4").any()


def test_a_copy_of_a_run_is_known_wherever_it_lies(made, reads, tmp_path):
    expected = api.drift(open_run(made.folder))
    reads.clear()
    assert api.drift(open_run(shutil.copytree(made.folder, tmp_path / "elsewhere"))).equals(expected)
    assert reads == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_damage_to_what_is_kept_is_not_believed(made, kept, reads, damage):
    expected = api.drift(open_run(made.folder), "all")
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(
            {
                "cut": whole[:middle],
                "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
                "empty": b"",
                "other": b"",
            }[damage]
        )
        if damage == "other":
            cache.put(str(path.relative_to(kept)), b"no array")
    reads.clear()
    assert api.drift(open_run(made.folder), "all").equals(expected)
    assert len(set(reads)) == 7
    reads.clear()
    assert api.drift(open_run(made.folder), "all").equals(expected)
    assert reads == []


def test_other_weights_are_other_content(made):
    from safetensors.numpy import load_file, save_file

    before = api.drift(open_run(made.folder))
    path = made.folder / "checkpoint-5" / run_folder.WEIGHTS
    save_file({name: array * 2 for name, array in load_file(path).items()}, path)
    vouch(path.parent)
    after = api.drift(open_run(made.folder))
    changed = (after["relative_l2"] != before["relative_l2"]) & ~after["relative_l2"].isna()
    assert set(after[changed]["checkpoint"]) == {"checkpoint-5"}


def test_without_a_place_to_keep_anything_all_is_read_again(made, reads, monkeypatch, tmp_path):
    expected = api.drift(open_run(made.folder))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "file" / "below"))
    for _ in range(2):
        reads.clear()
        assert api.drift(open_run(made.folder)).equals(expected)
        assert len(set(reads)) == 7


def test_a_run_that_may_only_be_read_is_not_written_to(made):
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    api.drift(open_run(made.folder), "all", gauge=True, spectral=True)
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


def test_a_checkpoint_removed_while_it_is_read_leaves_the_rest(made, monkeypatch):
    handle, gone = Files.handle, made.folder / "checkpoint-4"

    def removing(self, path):
        if path.parent.name == "checkpoint-3":
            shutil.rmtree(gone, ignore_errors=True)
        return handle(self, path)

    monkeypatch.setattr(Files, "handle", removing)
    table = api.drift(open_run(made.folder))
    monkeypatch.undo()
    assert not gone.exists()
    assert table.equals(api.drift(open_run(made.folder)))


def test_no_file_stays_open(made):
    """Of what is read: Python and its libraries open files of their own."""

    def ours():
        return [
            path for path in (link.resolve() for link in Path("/proc/self/fd").iterdir()) if made.folder in path.parents
        ]

    api.drift(open_run(made.folder), "all", threads=2)
    assert ours() == []


def test_a_checkpoint_removed_while_all_is_kept_is_reported(made, monkeypatch):
    expected = api.drift(open_run(made.folder))
    get, gone = cache.get, made.folder / "checkpoint-4"
    monkeypatch.setattr(cache, "get", lambda key: (shutil.rmtree(gone, ignore_errors=True), get(key))[1])
    run = open_run(made.folder)
    assert len(run.checkpoints) == 7
    table = api.drift(run)
    monkeypatch.undo()
    assert not gone.exists() and table.equals(expected)
    assert len(api.drift(open_run(made.folder))) < len(expected)


def test_a_checkpoint_removed_once_all_is_measured_is_reported(made, monkeypatch):
    """The table asks for more of a checkpoint than its sums, which may be all that was looked at."""
    expected = api.drift(open_run(made.folder))
    measure, gone = drift.measure, made.folder / "checkpoint-4"
    monkeypatch.setattr(drift, "measure", lambda *asked: (measure(*asked), shutil.rmtree(gone))[0])
    assert api.drift(open_run(made.folder)).equals(expected)
    assert not gone.exists()


def test_windows_and_threads_change_no_number(made, monkeypatch, kept):
    expected = api.drift(open_run(made.folder), "all", gauge=True)
    for window, threads in ((2, 1), (measurement.WINDOW, 3), (2, 2)):
        shutil.rmtree(kept)
        monkeypatch.setattr(measurement, "WINDOW", window)
        assert api.drift(open_run(made.folder), "all", gauge=True, threads=threads).equals(expected)


def test_half_precision_is_exact(made, kept):
    import torch
    from safetensors.torch import load_file, save_file

    exact = {}
    for _, path in run_folder.checkpoints(made.folder):
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(path / run_folder.WEIGHTS).items()}
        exact[path.name] = tensors["transformer.h.0.mlp.c_fc.weight"].double()
        save_file(tensors, path / run_folder.WEIGHTS)
        vouch(path)
    table = api.drift(open_run(made.folder), "matrix").query("part == 'a.mlp.c_fc.weight'").set_index("checkpoint")
    birth = exact["checkpoint-0"]
    for name, now in exact.items():
        expected = float(torch.linalg.norm(now - birth) / torch.linalg.norm(birth))
        assert table.loc[name, "relative_l2"] == pytest.approx(expected, rel=1e-12)


def test_the_example_runs(runs):
    message = subprocess.run(
        [sys.executable, "examples/analysis.py", runs["gpt2"]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "away from layer" in message.stdout and "attends to has changed most" in message.stdout
    assert np.isfinite(float(message.stdout.split()[8]))
