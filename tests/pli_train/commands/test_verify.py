"""Verifying a run: every flipped byte is found, and told in a row with the file's name."""

import json
import random
import shutil
from pathlib import Path

import pytest

from pli_analysis.runs.opening import open_run
from pli_train.commands.verify import verify
from pli_train.core.run_format import run_folder
from tests.commands import call


@pytest.fixture
def run(runs, tmp_path):
    return Path(shutil.copytree(runs["gpt2"], tmp_path / "run"))


def flip(path, offset, bit):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def bad(run):
    return {row["checkpoint"]: (row["state"], row["flaws"]) for row in verify(run) if row["state"] != "whole"}


def test_a_finished_run_is_whole(runs, family):
    rows = list(verify(runs[family]))
    assert [row["checkpoint"] for row in rows] == [str(name) for name, _ in run_folder.checkpoints(runs[family])]
    assert {row["state"] for row in rows} == {"whole"}
    for row in rows:
        files = list((runs[family] / row["checkpoint"]).iterdir())
        assert (row["files"], row["bytes"]) == (len(files), sum(file.stat().st_size for file in files))


@pytest.mark.parametrize("file", [run_folder.WEIGHTS, run_folder.OPTIMIZER])
def test_every_flip_of_a_bit_of_the_weights_is_found(run, file):
    path, chance = run / "checkpoint-6" / file, random.Random(6)
    size = path.stat().st_size
    for offset in [0, 7, 8, size - 1, *(chance.randrange(size) for _ in range(200))]:
        bit = chance.randrange(8)
        flip(path, offset, bit)
        message = run_folder.flaw(path.parent, hashes=True)
        assert message == f"its {file} has changed (its hash differs)", offset
        assert run_folder.flaw(path.parent) is None, "sizes alone do not tell"
        flip(path, offset, bit)
    assert run_folder.flaw(path.parent, hashes=True) is None


@pytest.mark.parametrize("file", [run_folder.LINEAGE, run_folder.CONFIG])
def test_every_flipped_byte_of_a_small_file_is_found(run, file):
    path = run / "checkpoint-3" / file
    for offset in range(path.stat().st_size):
        flip(path, offset, offset % 8)
        assert run_folder.flaw(path.parent, hashes=True), offset
        flip(path, offset, offset % 8)


def test_each_kind_of_damage_has_its_words(run):
    flip(run / "checkpoint-2" / run_folder.WEIGHTS, 3000, 1)
    (run / "checkpoint-3" / run_folder.OPTIMIZER).unlink()
    (run / "checkpoint-4" / run_folder.MANIFEST).unlink()
    (run / "checkpoint-6" / run_folder.MANIFEST).write_text("{")
    size = (run / "checkpoint-8" / run_folder.CONFIG).stat().st_size
    with (run / "checkpoint-8" / run_folder.CONFIG).open("a") as file:
        file.write(" ")
    weights = run / "checkpoint-9" / run_folder.WEIGHTS
    weights.rename(run / "elsewhere")
    weights.symlink_to(run / "elsewhere")
    (run / f"{run_folder.PARTIAL}checkpoint-14").mkdir()
    assert bad(run) == {
        "checkpoint-2": ("damaged", "its model.safetensors has changed (its hash differs)"),
        "checkpoint-3": ("incomplete", "lacks optimizer.safetensors"),
        "checkpoint-4": ("incomplete", "has no readable manifest.json"),
        "checkpoint-6": ("damaged", "has no readable manifest.json"),
        "checkpoint-8": ("damaged", f"its config.json has {size + 1} bytes, expected {size}"),
        "checkpoint-9": ("damaged", "its model.safetensors is a link, which may lead out of the run"),
        ".partial-checkpoint-14": ("incomplete", "was being written"),
    }


def test_checkpoints_of_another_run_are_found_though_their_hashes_are_right(run):
    other = json.loads((run / run_folder.LINEAGE).read_text())
    other["events"][0]["noise"] = 0.5
    (run / run_folder.LINEAGE).write_text(json.dumps(other))
    found = bad(run)
    assert set(found) == {str(name) for name, _ in run_folder.checkpoints(run) if name.step > 3 or name.after} - {
        "checkpoint-0",
        "checkpoint-2",
    }
    assert set(found.values()) == {("damaged", "its lineage.json differs from the run's at that event")}
    (run / run_folder.LINEAGE).write_text("[]")
    assert "" in bad(run)


def test_verify_by_command_and_what_analysis_passes_over(run):
    whole = call("pli-train", "verify", run, "--format", "json")
    assert (whole.returncode, whole.stderr) == (0, "")
    assert {row["state"] for row in json.loads(whole.stdout)} == {"whole"}
    flip(run / "checkpoint-8" / run_folder.WEIGHTS, 5000, 0)
    torn = call("pli-train", "verify", run)
    assert torn.returncode == 1 and torn.stderr == f"error: {run}: damaged: 1 of 12 rows\n"
    assert "its model.safetensors has changed" in torn.stdout
    for command in ("drift", "report"):
        plain, checked = call("pli-analyze", command, run), call("pli-analyze", command, run, "--verify")
        assert plain.returncode == checked.returncode == 0
        assert plain.stderr == ""
        assert checked.stderr.startswith(
            "passed over: checkpoint-8: its model.safetensors has changed (its hash differs)"
        )
    assert [str(c.name) for c in open_run(run, hashes=True).checkpoints].count("checkpoint-8") == 0
