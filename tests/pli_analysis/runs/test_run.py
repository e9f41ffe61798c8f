"""Opening a run: what is read of each checkpoint, and how often."""

import shutil
from collections import Counter

import pytest

from pli_analysis.runs import checkpoint as module
from pli_analysis.runs.opening import open_run
from pli_train.core.anatomy import Anatomy
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder


def test_opening_a_run_reads_each_file_once_and_maps_equal_names_once(small_run, monkeypatch):
    for cached in (each for each in vars(module).values() if hasattr(each, "cache_clear")):
        cached.cache_clear()
    reads, located = Counter(), Counter()
    read_text, locate = run_folder.read_text, Anatomy.locate
    monkeypatch.setattr(run_folder, "read_text", lambda path: (reads.update([path]), read_text(path))[1])
    monkeypatch.setattr(Anatomy, "locate", lambda table, name: (located.update([name]), locate(table, name))[1])
    run = open_run(small_run)
    checkpoints = run.checkpoints
    whole = {(tuple(one.files), tuple(one.lineage.stack)) for one in checkpoints}
    assert len(checkpoints) > len(whole)  # else nothing could be shared
    assert set(reads.values()) == {1}
    assert {path.name for path in reads} >= {"config.json", "trainer_state.json", "lineage.json", "manifest.json"}
    names = {names for names, _ in whole}
    assert located == Counter(name for of_one in names for name in of_one)


def test_shared_names_are_those_of_each_checkpoint(small_run):
    for checkpoint in open_run(small_run).checkpoints:
        pairs = [
            (checkpoint.lineage.stack[int(name.split(".h.")[1].split(".")[0])], name)
            for name in checkpoint.files
            if ".h." in name
        ]
        expected = {id: {} for id in checkpoint.lineage.stack}
        for id, name in pairs:
            expected[id][name.split(".h.")[1].split(".", 1)[1]] = name
        assert checkpoint.names_of_layers == expected


def test_a_folder_that_is_about_to_become_a_run_is_not_a_model_yet(small_run, tmp_path):
    shutil.copy(small_run / run_folder.PROBE, tmp_path)  # written before run.json, with which a run begins
    with pytest.raises(BadInput, match="not a run"):
        open_run(tmp_path)
    shutil.copy(small_run / run_folder.RUN, tmp_path)
    with pytest.raises(BadInput, match=f"has no {run_folder.LINEAGE} yet"):
        _ = open_run(tmp_path).lineage
