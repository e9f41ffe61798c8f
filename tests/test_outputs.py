"""Output files of the commands: every format, links, devices, pipes, and what is rejected before any work."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.commands import call, fresh
from tests.warm import ROOT


def analyze(*words):
    return call("pli-analyze", *words, text=False)


def refused(done, message):
    """Assert one clear line on stderr, exit code 2, and nothing on stdout."""
    error = done.stderr.decode()
    assert done.returncode == 2 and done.stdout == b"" and error.count("\n") == 1
    assert message in error


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Two checkpoints of an untrained model in Trainer's layout, fast to make and read."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("small")
    for step in (1, 2):
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=16, vocab_size=50))
        model.save_pretrained(folder / f"checkpoint-{step}")
    return folder


@pytest.fixture(scope="module")
def message(small_run):
    """Output of `lineage` for a run in each text format."""
    return {name: analyze("lineage", small_run, "-f", name).stdout for name in ("table", "json", "csv", "md", "latex")}


# --- the format of a table ------------------------------------------------------------------------------------------


def test_a_files_suffix_sets_the_format_in_either_case(small_run, message, tmp_path):
    for ending, name in {
        ".txt": "table",
        ".json": "json",
        ".CSV": "csv",
        ".md": "md",
        ".tex": "latex",
        "": "table",
    }.items():
        path = tmp_path / f"out{ending}"
        done = analyze("lineage", small_run, "-o", path)
        assert (done.returncode, done.stdout, path.read_bytes()) == (0, b"", message[name])


def test_a_format_that_is_named_counts_more_than_an_ending(small_run, message, tmp_path):
    for name in ("out.json", "out.xlsx"):
        assert analyze("lineage", small_run, "-f", "csv", "-o", tmp_path / name).returncode == 0
        assert (tmp_path / name).read_bytes() == message["csv"]


@pytest.mark.parametrize("name", ["out.xlsx", "out.csv.gz", "out.html"])
def test_an_unknown_ending_is_refused_with_those_that_are_known(small_run, tmp_path, name):
    ending = name[name.rindex(".") :]
    done = analyze("lineage", small_run, "-o", tmp_path / name)
    refused(done, f"unknown file ending {ending}; use one of .txt, .json, .csv, .md, .tex, .parquet, or give --format")
    assert list(tmp_path.iterdir()) == []


def test_a_hyphen_is_stdout(small_run, message):
    assert analyze("lineage", small_run, "-o", "-").stdout == message["table"]
    assert analyze("lineage", small_run, "-o", "-", "-f", "csv").stdout == message["csv"]
    page = analyze("lineage", small_run, "--html", "-", "-o", os.devnull).stdout
    assert page.startswith(b"<!doctype html>") and page.rstrip().endswith(b"</html>")
    saved = analyze("lineage", small_run, "--save", "-", "-o", os.devnull).stdout
    assert json.loads(saved)["format"] == "pli-lineage"


def test_a_report_to_stdout_is_the_page_and_nothing_else(small_run, tmp_path):
    assert analyze("report", small_run, "--html", tmp_path / "page.html").stdout.decode() == f"{tmp_path}/page.html\n"
    assert analyze("report", small_run, "--html", "-").stdout == (tmp_path / "page.html").read_bytes()


# --- no plain files -------------------------------------------------------------------------------------------------


def written_by(run, folder):
    """Arguments of commands that together write every kind of file, each to its file in a folder."""
    return [
        ["lineage", run, "--save", folder / "saved", "--html", folder / "page", "-o", folder / "table", "-f", "csv"],
        ["drift", run, "-f", "parquet", "-o", folder / "parquet"],
    ]


KINDS = ["saved", "page", "table", "parquet"]


@pytest.fixture(scope="module")
def plain(small_run, tmp_path_factory):
    """The same files written normally: name → content."""
    folder = tmp_path_factory.mktemp("plain")
    for words in written_by(small_run, folder):
        assert analyze(*words).returncode == 0
    return {name: (folder / name).read_bytes() for name in KINDS}


def test_links_are_followed_by_all_that_writes(small_run, plain, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "links").mkdir()
    for name in KINDS:
        (tmp_path / "links" / name).symlink_to(f"../far/{name}")
    for words in written_by(small_run, tmp_path / "links"):
        assert analyze(*words).returncode == 0
    assert {name: (tmp_path / "far" / name).read_bytes() for name in KINDS} == plain
    assert sorted(path.name for path in (tmp_path / "links").iterdir()) == sorted(KINDS)
    assert all(path.is_symlink() for path in (tmp_path / "links").iterdir())


def test_pipes_get_the_same_and_stay_pipes(small_run, plain, tmp_path):
    got = {}
    for name in KINDS:
        os.mkfifo(tmp_path / name)
        threading.Thread(target=lambda path: got.update({path.name: path.read_bytes()}), args=[tmp_path / name]).start()
    for words in written_by(small_run, tmp_path):
        assert analyze(*words).returncode == 0
    assert got == plain
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(KINDS)
    assert all(stat.S_ISFIFO(path.stat().st_mode) for path in tmp_path.iterdir())


def test_a_device_stays_a_device(small_run, tmp_path):
    """A private null device, as replacing the real /dev/null would affect the whole machine."""
    try:
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (tmp_path / "null").write_bytes(b"")
    except OSError:
        pytest.skip("may make no devices here")
    for name in KINDS:
        (tmp_path / name).symlink_to("null")
    for words in written_by(small_run, tmp_path):
        assert analyze(*words).returncode == 0
    assert (tmp_path / "null").is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*KINDS, "null"])


@pytest.mark.parametrize("words", ["report RUN --html /dev/stdout", "lineage RUN --html >(head -c 9 >/dev/null)"])
def test_a_pipe_that_is_closed_early_is_no_error(small_run, words):
    command = f"{sys.executable} -m pli_analysis.cli {words.replace('RUN', str(small_run))}"
    shell = f"{command} | head -c 100 >/dev/null; echo ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment)
    assert done.stdout == "0\n" and "error" not in done.stderr and "Traceback" not in done.stderr


def test_what_finds_no_room_leaves_the_old_file_and_nothing_beside_it(small_run, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))

    for name in KINDS:
        (tmp_path / name).write_text("old")
    for words in written_by(small_run, tmp_path):
        done = fresh("pli-analyze", *words, preexec_fn=limit)
        assert done.returncode == 1 and b"cannot be written (file too large)" in done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(KINDS, "old")


# --- refused before any work ----------------------------------------------------------------------------------------


def test_outputs_are_checked_before_anything_is_read(tmp_path):
    """The path is not a run, but the error is about the output."""
    (tmp_path / "folder").mkdir()
    commands = [["drift", "RUN", "-o"], ["lineage", "RUN", "--save"], ["report", "RUN", "--html"]]
    for words, (name, message) in zip(
        [*commands, commands[-1]],
        {
            "no/file.csv": "cannot be written (there is no folder",
            "folder": "cannot be written (it is a folder: name a file)",
            "folder/": "cannot be written (it is a folder: name a file)",
            "fresh/": "cannot be written (it is a folder: name a file)",
        }.items(),
        strict=True,
    ):
        refused(analyze(*(tmp_path if word == "RUN" else word for word in words), f"{tmp_path}/{name}"), message)


def test_no_output_takes_the_place_of_what_is_read(small_run, tmp_path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    last = run / "checkpoint-2"
    assert analyze("lineage", run, "--save", tmp_path / "mine.json").returncode == 0
    shutil.copy(tmp_path / "mine.json", last / "lineage.json")
    shutil.copy(tmp_path / "mine.json", run / "run.json")
    (tmp_path / "loss.csv").write_text("Wall time,Step,Value\n1,1,2\n2,2,1\n")
    (tmp_path / "link").symlink_to(last / "config.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        ["lineage", run, "--save", last / "lineage.json"],
        ["lineage", run, "--save", tmp_path / "link"],
        ["drift", last, "-f", "csv", "-o", last / "model.safetensors"],
        ["report", run, "--html", run / "run.json"],
        ["drift", run, "--lineage", tmp_path / "mine.json", "-o", tmp_path / "mine.json"],
        ["compare", f"group={tmp_path / 'loss.csv'}", "-o", tmp_path / "loss.csv"],
        ["scalars", tmp_path / "loss.csv", "-o", tmp_path / "loss.csv"],
    ):
        refused(analyze(*words), "is part of what is read: name another file")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_two_outputs_are_two_files(small_run, tmp_path):
    done = analyze("lineage", small_run, "--html", tmp_path / "one", "-o", tmp_path / "." / "one")
    refused(done, "is also the file of -o: name another")


def test_a_table_beside_the_run_may_be_written_again(small_run, tmp_path):
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    for _ in range(2):
        assert analyze("lineage", run, "-o", run / "layers.json", "--html", run / "page.html").returncode == 0


def test_parquet_goes_into_a_pipe_and_is_not_printed_unasked(small_run, plain):
    piped = analyze("drift", small_run, "-f", "parquet", "-o", "/dev/stdout")
    assert (piped.returncode, piped.stdout) == (0, plain["parquet"])
    refused(analyze("drift", small_run, "-f", "parquet"), "is a binary format; write it to a file with -o FILE.parquet")


# --- what is said of checkpoints that do not differ -----------------------------------------------------------------


def test_identical_checkpoints_are_called_so(small_run, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(small_run / "checkpoint-1", tmp_path / name)
    both = analyze("drift", tmp_path / "a", tmp_path / "b", "-f", "json")
    assert b"the weights are the same at every checkpoint\n" in both.stderr
    assert {row["relative_l2"] for row in json.loads(both.stdout)} == {0.0}
    assert b"the weights are the same" not in analyze("drift", small_run).stderr
    assert b"there is only one checkpoint, so every distance is 0" in analyze("drift", tmp_path / "a").stderr
    message = analyze("report", tmp_path / "a").stdout.decode()
    assert message.startswith("a: A gpt2 at a single checkpoint: there is nothing to compare it with.\n")
