"""The two commands as users call them: output, streams and exit codes."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from pli_train.core.run_format import run_folder
from tests.commands import call, refused
from tests.conftest import STEPS
from tests.warm import ROOT


@pytest.mark.parametrize("command", ["pli-train", "pli-analyze"])
def test_help_names_every_command_with_an_example(command):
    names = {
        "pli-train": [
            "run",
            "resume",
            "fork",
            "sweep",
            "verify",
            "plan",
            "check",
            "sample",
            "export",
            "config",
            "presets",
            "schedules",
        ],
        "pli-analyze": [
            "ls",
            "lineage",
            "drift",
            "grad-norms",
            "embed",
            "similarity",
            "ablation",
            "pruning",
            "lens",
            "probe",
            "attribution",
            "conductance",
            "attention",
            "neurons",
            "influence",
            "explain",
            "scalars",
            "compare",
            "report",
            "figures",
            "watch",
        ],
    }[command]
    top = call(command, "--help")
    assert top.returncode == 0
    for name in names:
        assert name in top.stdout
        assert f"Example: {command} {name}" in " ".join(call(command, name, "--help").stdout.split())


def test_plan_prints_the_seeds_growth_before_any_training():
    done = call("pli-train", "plan", "seed-appendix")
    lines = done.stdout.splitlines()
    assert lines[-1].endswith("a c f i j h g e d b   total: 10")
    assert lines[-10].endswith("  a   total: 1")
    shares = [float(line.split()[3].rstrip("%")) for line in lines[-10:]]
    assert shares == sorted(shares) and shares[-1] == 10.0
    assert sum(shares) == pytest.approx(66.2, abs=0.3)
    # BERT-base has 12 layers of 7,087,872 parameters; ten of them and the rest of BertForMaskedLM make this.
    assert int(lines[-1].split()[2].replace(",", "")) == 109_514_298 - 2 * 7_087_872


def test_the_plan_in_the_readme_is_the_plan():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```console\n$ pli-train plan tiny\n{call('pli-train', 'plan', 'tiny').stdout}```\n" in readme


def test_every_named_schedule_is_listed_with_its_paper():
    lines = {line.split()[0]: line for line in call("pli-train", "schedules").stdout.splitlines()}
    written = {path.stem.replace("_", "-") for path in (ROOT / "pli_train/growth/schedules").glob("*.py")}
    assert lines.keys() == written - {"--init--", "named", "position"}
    assert "Double the depth at each moment, with the copies on top." in lines["stackbert"]
    assert lines["stackbert"].endswith("Gong et al. 2019, proceedings.mlr.press/v97/gong19a")


def test_presets_are_listed_with_the_default_marked():
    lines = call("pli-train", "presets").stdout.splitlines()
    assert {line.split()[0] for line in lines} >= {"tiny", "baseline", "seed-appendix"}
    assert [line.split()[0] for line in lines if line.endswith("(default)")] == ["tiny"]


def test_seed_appendix_says_plainly_that_no_hub_is_within_reach(tmp_path):
    done = call("pli-train", "run", "seed-appendix", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "hub" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "seed-appendix").exists()


def test_steps_replace_epochs(tmp_path):
    (tmp_path / "mine.toml").write_text('[model]\nfamily = "gpt2"\n[train]\nepochs = 2\n')
    printed = call("pli-train", "config", "mine.toml", "--steps", "5", cwd=tmp_path).stdout
    assert "steps = 5\n" in printed and "epochs" not in printed
    for words in (["--set=train.steps=5"], ["--steps=5", "--set=train.epochs=1"]):
        both = call("pli-train", "config", "mine.toml", *words, cwd=tmp_path)
        assert both.returncode == 2 and "give exactly one of `steps` and `epochs`" in both.stderr


def test_a_run_and_its_reading_from_an_empty_folder(tmp_path, corpus):
    """Two commands with default arguments in a new folder: a run under runs/, then a report on the newest run."""
    (tmp_path / "mine.toml").write_text(
        'extends = "tiny-gpt2"\n[tokenizer]\nvocab_size = 300\n[train]\nsteps = 6\nblock_size = 16\neval_blocks = 4\n'
        f'[data]\nsource = "{corpus}"\n[model]\nconfig = {{ n_embd = 32, n_head = 2 }}\n'
    )
    for expected in ("runs/mine", "runs/mine-2"):
        done = call("pli-train", "run", "mine.toml", "--set", "growth.schedule=0.5@0", cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr
        assert "2 layers (b a)" in done.stderr
    page = call("pli-analyze", "report", "--html", cwd=tmp_path)
    assert page.stdout.strip() == "runs/mine-2/report.html"
    assert (tmp_path / "runs/mine-2/report.html").stat().st_size > 1_500_000
    text = call("pli-analyze", "report", cwd=tmp_path)
    assert text.stdout.startswith("mine-2: A gpt2 that grew from 1 to 2 layers over 6 steps.")
    other = call("pli-analyze", "report", "runs/mine", "--html", "here.html", cwd=tmp_path)
    assert other.stdout.strip() == "here.html"
    same = call("pli-analyze", "report", "--html", "runs/mine", cwd=tmp_path)
    assert same.stdout.strip() == "runs/mine/report.html"
    assert (tmp_path / "runs/mine/report.html").read_bytes() == (tmp_path / "here.html").read_bytes()


def test_tables_go_to_stdout_or_a_file(runs, family, tmp_path):
    records = json.loads(call("pli-analyze", "drift", runs[family], "--format", "json").stdout)
    rows = list(csv.DictReader(io.StringIO(call("pli-analyze", "drift", runs[family], "-f", "csv").stdout)))
    assert [row["part"] for row in rows] == [record["part"] for record in records]
    assert [float(row["relative_l2"]) for row in rows] == [record["relative_l2"] for record in records]
    done = call("pli-analyze", "lineage", runs[family], "--events", "-o", tmp_path / "events.md")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "events.md").read_text().count("insert") == 4


BAD = {
    "an unknown preset": (["plan", "tny"], "no preset 'tny'; did you mean 'tiny'?"),
    "an unknown key": (["plan", "tiny", "--set", "optim.learning_rate=1"], "unknown key; did you mean 'optim.lr'?"),
    "a wrong type": (["plan", "tiny", "--set", "train.steps=soon"], "train.steps: input should be a valid integer"),
    "an index beyond the stack": (["run", "tiny", "--set", "growth.schedule=0.5@4"], "index 4 is outside the stack"),
    "a donor that is not there": (
        ["run", "tiny-gpt2", "--set", "growth.donor=q"],
        "donor 'q' is not in the stack at that step (a)",
    ),
    "a missing corpus": (["run", "--set", "data.source=./nowhere"], "data.source: nowhere: no such file or folder"),
    "a config field unknown": (
        ["plan", "tiny-gpt2", "--set", "model.config.n_hed=3"],
        "n_hed: not a field of gpt2's config; did you",
    ),
    # The model is looked at before the corpus, which may take minutes to tokenize.
    "heads that do not divide": (
        ["run", "tiny-gpt2", "--set", "model.config.n_head=3", "--set", "data.source=./nowhere"],
        "model.config: ",
    ),
    "blocks too long": (["plan", "tiny-gpt2", "--set", "train.block_size=4096"], "4096 tokens exceed n_positions"),
    "no run to resume": (["resume", "nowhere"], "nowhere: no such folder"),
    "a folder that is no run": (["resume", "."], "not a run, it holds no run.json"),
    "nothing to check": (["check", "baseline"], "growth.schedule: has no event, so there is nothing to check"),
    "a checkpoint of no run": (["check", "tiny", "--from", "nowhere"], "not a run"),
    "no run to export": (["export", "nowhere"], "nowhere: no such folder"),
    "no run to fork": (["fork", "nowhere", "--at", "3"], "nowhere: no such folder"),
    "no run to verify": (["verify", "."], "not a run, it holds no run.json"),
    "an option unknown": (["run", "--stepz", "3"], "--stepz"),
}


@pytest.mark.parametrize("words, message", BAD.values(), ids=BAD.keys())
def test_bad_input_to_training_gets_one_line_and_exit_2(words, message, tmp_path):
    refused(call("pli-train", *words, cwd=tmp_path), message)
    assert not list(tmp_path.glob("runs/*"))


def test_an_empty_corpus_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(call("pli-train", "run", "--set", "data.source=./empty", cwd=tmp_path), "empty holds no text")


def test_bad_input_to_analysis_gets_one_line_and_exit_2(runs, tmp_path):
    run = Path(shutil.copytree(runs["gpt2"], tmp_path / "run"))
    (tmp_path / "bare").mkdir()
    for command in ("lineage", "drift", "report"):
        refused(
            call("pli-analyze", command, tmp_path / "bare"),
            "not a run or a model: it holds neither run.json nor checkpoints",
        )
        refused(call("pli-analyze", command, tmp_path / "nowhere"), "no such folder")
    refused(call("pli-analyze", "drift", run / "checkpoint-6"), "not a run, it holds no run.json (its parent is a run")
    refused(call("pli-analyze", "drift", run, "-o", tmp_path / "no" / "where.csv"), "cannot be written")
    refused(
        call("pli-analyze", "drift", run, "--of", "toe"),
        "invalid value for '--of': 'toe' is not one of 'layer', 'head'",
    )
    refused(call("pli-analyze", "report", cwd=tmp_path / "run"), "no run under runs/")
    (run / run_folder.LINEAGE).write_text('{"format": "pli-lineage"}')
    refused(call("pli-analyze", "lineage", run), "lineage.json: not a lineage")
    for path in run.glob("checkpoint-*"):
        (path / run_folder.WEIGHTS).unlink()
    refused(call("pli-analyze", "drift", run), "holds no whole checkpoint")


def test_half_deleted_checkpoints_are_passed_over_with_a_line_each(runs, tmp_path):
    run = Path(shutil.copytree(runs["gpt2"], tmp_path / "run"))
    (run / f"checkpoint-{STEPS}" / run_folder.WEIGHTS).unlink()
    (run / "checkpoint-4" / run_folder.MANIFEST).unlink()
    done = call("pli-analyze", "drift", run, "-f", "csv")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "passed over: checkpoint-4: has no readable manifest.json",
        f"passed over: checkpoint-{STEPS}: lacks model.safetensors",
    ]
    assert f"checkpoint-{STEPS}" not in done.stdout
