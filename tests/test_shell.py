"""Behavior that all commands share, on terminals, in pipes and with shell completion."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from typer.main import get_command

from pli_analysis.cli import app as analyze
from pli_train.cli import app as train
from pli_train.commands.sample import sample
from pli_train.config import loading as configs
from pli_train.core.run_format import run_folder
from tests.commands import at_a_terminal, call, refused
from tests.conftest import STEPS
from tests.thinned import thinned
from tests.warm import ROOT

APPS = {"pli-train": train, "pli-analyze": analyze}
PACKAGES = {"pli-train": "pli_train", "pli-analyze": "pli_analysis"}
COMMANDS = [
    (name, command)
    for name, app in APPS.items()
    for command, found in get_command(app).commands.items()
    if not found.hidden  # an older name of another
]


def helps(name, command, width):
    """Return the help of a command on a terminal of this width."""
    group = get_command(APPS[name])
    settings = {**group.context_settings, "terminal_width": width}
    with group.make_context(name, [], resilient_parsing=True, **settings) as above:
        if not command:
            return group.get_help(above)
        with group.commands[command].make_context(command, [], parent=above, resilient_parsing=True) as ctx:
            return group.commands[command].get_help(ctx)


@pytest.mark.parametrize(
    ("name", "module"),
    [(name, module) for name, package in PACKAGES.items() for module in (package, f"{package}.cli")],
)
def test_version_is_that_of_the_project(name, module):
    """Both commands, also started by the package's name."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for words in (["--version"], ["--version", "nonsense"]):
        done = subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name} {stated}\n", "")


def options():
    """Yield (app, command, option) of every option."""
    for name, command in COMMANDS:
        for param in get_command(APPS[name]).commands[command].params:
            if param.param_type_name == "option":
                yield name, command, param


# --- help -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("name", "command"), [*COMMANDS, *((name, "") for name in APPS)])
def test_help_fits_the_terminal_and_cuts_no_sentence_short(name, command, width):
    message = helps(name, command, width)
    assert max(map(len, message.splitlines())) <= width
    assert not re.search(r"[a-z,]\.\.\.$", message, re.MULTILINE), "a summary that was cut"
    assert not re.search(r"<\w", message), "a type of Python's where a word for people should be"
    assert "\x1b" not in message
    if command:
        assert f"  Example: {name} {command}" in message
        assert all(line in message for line in ("Print only errors on stderr.", "Print what is read, cached and timed"))


def test_an_option_has_one_letter_and_one_meaning_in_all_commands():
    spelled, message = {}, {}
    for name, _, param in options():
        long = max(param.opts, key=len)
        spelled.setdefault(long, set()).add(tuple(param.opts))
        message.setdefault((name, long), set()).add((param.metavar, param.help))
    assert {long: ways for long, ways in spelled.items() if len(ways) > 1} == {}
    # These are asked of different things, and say so: a folder and a file, formats of tables and of figures, a step of
    # a run and one of its checkpoints, blocks that models read and those that layers are compared on, checkpoints that
    # are summed over and those that are measured one by one, and the first blocks or contexts of a ranking.
    differ = {
        "--space",
        "--html",
        "--out",
        "--format",
        "--at",
        "--of",
        "--window",
        "--events",
        "--blocks",
        "--checkpoints",
        "--top",
    }
    assert {long for (_, long), ways in message.items() if len(ways) > 1} <= differ
    for letter in "qvfoh":
        assert len({max(param.opts, key=len) for *_, param in options() if f"-{letter}" in param.opts}) <= 1


def test_every_value_has_a_name_in_capitals():
    values = [param for *_, param in options() if not param.is_flag]
    assert [param.name for param in values if not param.metavar or param.metavar != param.metavar.upper()] == []


def test_words_that_an_option_takes_are_those_of_the_metric():
    from pli_analysis.commands import compare, drift, embed, grad_norms
    from pli_analysis.metrics import loss
    from pli_analysis.metrics.drift import drift as drifts
    from pli_analysis.metrics.maps import embedding as maps
    from pli_analysis.metrics.maps import points, projections
    from pli_train.core.anatomy.parts import GROUPS

    assert set(get_args(drift.Part)) == {*drifts.LEVELS, "matrix", "all"}
    assert set(get_args(grad_norms.Part)) == {*GROUPS, "all"}
    assert get_args(embed.Method) == projections.METHODS
    assert tuple(embed.PARTS) == get_args(embed.Part) and tuple(embed.PARTS.values()) == points.PARTS
    assert get_args(embed.Space) == maps.SPACES
    assert set(get_args(compare.Axis)) == {"step", *loss.AXES}


def words_of(kind):
    """Return the values of a type that is a choice, or an optional choice."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return list(kind)
    return get_args(kind) if get_origin(kind) is Literal else [w for one in get_args(kind) for w in words_of(one)]


def test_help_names_every_word_that_an_option_takes():
    commands = [command.callback for app in APPS.values() for command in app.registered_commands]
    named = 0
    for parameter in (p for command in commands for p in inspect.signature(command).parameters.values()):
        kind, option = get_args(parameter.annotation)[:2]
        words = words_of(kind)
        named += bool(words)
        assert [word for word in words if not re.search(rf"\b{word}\b", option.help)] == [], parameter.name
    assert named > 10


# --- misuse ---------------------------------------------------------------------------------------------------------

MISUSES = {
    "pli-analyze drfit": "no such command 'drfit'. Did you mean 'drift'?",
    "pli-train zebra": "no such command 'zebra'; see pli-train --help",
    "pli-analyze --quiet drift x": "no such option: --quiet; see pli-analyze --help",
    "pli-analyze drift x --spektral": "no such option: --spektral (Possible options: --spectral)",
    "pli-train run --st a=1": "no such option: --st (Possible options: --out, --set, --steps)",
    "pli-analyze drift x -z": "no such option: -z; see pli-analyze drift --help",
    "pli-analyze compare": "missing argument 'RUN...'; see pli-analyze compare --help",
    "pli-analyze drift": "runs: no such folder; `pli-train run` makes runs, under runs/ by default",
    "pli-train fork x": "missing option '--at'; see pli-train fork --help",
    "pli-analyze drift x --of": "option '--of' requires an argument",
    "pli-analyze drift x --quiet=1": "option '--quiet' does not take a value",
    "pli-analyze doctor x": "got unexpected extra argument(s) (x); see pli-analyze doctor --help",
    "pli-analyze drift x --threads many": "invalid value for '--threads': Input should be a valid integer",
    "pli-analyze drift x --threads 0": "invalid value for '--threads': Input should be greater than or equal to 1",
    "pli-analyze scalars x -f cvs": "'csv', 'md', 'latex', 'parquet'; did you mean 'csv'?",
    "pli-train verify x -f parquet": "invalid value for '--format' / '-f': 'parquet' is not one of",
    "pli-analyze drift x --of haed": "'attention', 'matrix', 'all'; did you mean 'head'?",
    "pli-analyze embed x --of heads": "'heads' is not one of 'layer', 'head', 'ffn'; did you mean 'head'?",
    "pli-analyze embed x --method umpa": "'--method': 'umpa' is not one of 'pca', 'tsne', 'umap'; did you mean 'umap'?",
    "pli-analyze compare x --by token": "'step', 'tokens', 'flops', 'seconds'; did you mean 'tokens'?",
    "pli-analyze drift x --quiet -v": "--quiet and --verbose exclude each other: use one of them",
    "pli-train plan -qv": "--quiet and --verbose exclude each other: use one of them",
}


@pytest.mark.parametrize(("words", "message"), MISUSES.items(), ids=MISUSES)
def test_misuse_is_one_line_that_says_what_was_probably_meant(words, message, tmp_path):
    lines = refused(call(*words.split(), cwd=tmp_path), message)
    assert len(lines) == 1 and lines[0].startswith("error: ")


@pytest.mark.parametrize(
    "words", [["drift"], ["lineage"], ["scalars"], ["grad-norms"], ["similarity", "--space", "weights"]]
)
def test_without_a_run_the_newest_is_read(words, runs, tmp_path):
    for name, family in (("older", "bert"), ("newer", "gpt2")):
        shutil.copytree(runs[family], tmp_path / "runs" / name)
        path = tmp_path / "runs" / name / run_folder.RUN
        record = json.loads(path.read_text()) | {"created": {"older": "2020", "newer": "2030"}[name]}
        path.write_text(json.dumps(record))
    found = call("pli-analyze", *words, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (
        0,
        call("pli-analyze", words[0], "runs/newer", *words[1:], cwd=tmp_path).stdout,
    )


@pytest.mark.parametrize("name", APPS)
def test_no_words_at_all_get_the_help(name):
    done = call(name)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == call(name, "-h").stdout


# --- how much is said -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torn(runs, tmp_path_factory):
    """A run with a damaged checkpoint, which readers skip, and a sample of its training blocks."""
    run = Path(shutil.copytree(runs["gpt2"], tmp_path_factory.mktemp("torn") / "run"))
    sample(configs.of_run(run), run, blocks=2)
    (run / f"checkpoint-{STEPS}" / run_folder.WEIGHTS).unlink()
    return run


TALKATIVE = [
    ["drift", "RUN"],
    ["lineage", "RUN", "--verify", "--html", "OUT"],
    ["embed", "RUN"],
    ["compare", "RUN"],
]
SLOW = [  # as they load torch, twice
    ["similarity", "RUN"],
    ["ablation", "RUN", "--blocks", "2"],
    ["pruning", "RUN", "--blocks", "2"],
    ["lens", "RUN", "--blocks", "2"],
    ["probe", "RUN", "--blocks", "8"],
    ["attribution", "RUN", "--blocks", "2"],
    ["conductance", "RUN", "--blocks", "2"],
    ["attention", "RUN", "--blocks", "2"],
    ["neurons", "RUN", "--blocks", "2"],
    ["influence", "RUN", "--blocks", "2", "--checkpoints", "1"],
    ["explain", "RUN", "--blocks", "2"],
    ["disturbance", "RUN", "--placebos", "0", "--blocks", "2"],
    ["grad-norms", "RUN", "--recompute"],
]


@pytest.mark.parametrize(
    "words", [*TALKATIVE, *(pytest.param(words, marks=pytest.mark.slow) for words in SLOW)], ids=lambda words: words[0]
)
def test_quiet_says_nothing_and_changes_nothing_else(words, torn, tmp_path):
    words = [{"RUN": torn, "OUT": tmp_path / "page.html"}.get(word, word) for word in words]
    usual, quiet = call("pli-analyze", *words), call("pli-analyze", *words, "-q")
    assert usual.stderr != "" and quiet.stderr == ""
    assert (quiet.returncode, quiet.stdout) == (usual.returncode, usual.stdout) and usual.returncode == 0


def test_quiet_does_not_swallow_errors(torn):
    done = call("pli-analyze", "drift", torn, "-q", "-o", torn / "no" / "file.csv")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_verbose_says_what_was_read_what_was_kept_and_how_long_it_took(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "cache"))
    usual = call("pli-analyze", "drift", runs["gpt2"])
    (tmp_path / "cache").rename(tmp_path / "warm")
    fresh, again = (call("pli-analyze", "drift", runs["gpt2"], "--verbose") for _ in range(2))
    assert usual.stdout == fresh.stdout == again.stdout and usual.stderr == ""
    whole = len(run_folder.checkpoints(runs["gpt2"]))
    for done, kept in ((fresh, 0), (again, whole)):
        assert f"{runs['gpt2']}: {whole} whole checkpoints, 0 passed over\n" in done.stderr
        assert f"cache {tmp_path / 'cache' / 'drift'}: found {kept} of {whole}\n" in done.stderr
        assert re.search(r"^drift, in total: \d+\.\d\d s$", done.stderr, re.MULTILINE)
    assert re.search(r"^\d+ tensors of all checkpoints: \d+\.\d\d s$", fresh.stderr, re.MULTILINE)
    assert "tensors of all checkpoints" not in again.stderr


def test_verbose_shows_where_an_error_comes_from_and_what_is_behind_it(runs, tmp_path):
    words = ["drift", runs["gpt2"], "-o", tmp_path / "no" / "where.csv"]
    done = call("pli-analyze", *words, "-v")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == call("pli-analyze", *words).stderr.strip()
    assert "Traceback" in done.stderr and "FileNotFoundError" in done.stderr and "in check" in done.stderr
    assert "typer" not in done.stderr, "only what is ours"
    assert "in require_run" in call("pli-train", "resume", tmp_path, "--verbose").stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_libraries_keep_to_quiet_too(quiet):
    code = (
        f"import logging, warnings; from pli_train.core.cli import console; console.configure(quiet={quiet}); "
        "warnings.warn('of Python', FutureWarning); logging.getLogger('safetensors').warning('of\\nlogging'); "
        "from transformers.utils import logging as theirs; theirs.get_logger('transformers.x').warning('LOAD REPORT')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRANSFORMERS", "HF_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0 and done.stdout == ""
    message = [] if quiet else ["of", "logging"]
    assert [
        line for line in done.stderr.splitlines() if "Python" not in line and "warnings.warn" not in line
    ] == message
    assert ("FutureWarning: of Python" in done.stderr) is not quiet


# --- pipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reader", "unbuffered"), thinned([("true", ""), ("head -n 1", ""), ("true", "1")]))
@pytest.mark.parametrize(
    "words",
    [
        "pli_analysis.cli --help",
        "pli_analysis.cli drift --help",
        "pli_analysis.cli drift RUN -f csv",
        "pli_analysis.cli scalars RUN -f csv",
        "pli_analysis.cli report RUN",
        "pli_analysis.cli watch RUN --once",
        "pli_train.cli presets",
        "pli_train.cli verify RUN",
    ],
)
def test_a_closed_pipe_is_no_error(words, reader, unbuffered, runs, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)  # as it decides where the pipe is found closed
    words = words.replace("RUN", str(runs["gpt2"]))
    shell = f"{sys.executable} -m {words} | {reader}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_closed_pipe_hides_no_failure_that_is_known(torn, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # so that the pipe is found closed when all else is done
    shell = f"{sys.executable} -m pli_train.cli verify {torn} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1\n" and ": damaged: 1 of " in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "words", ["pli_train.cli presets", "pli_analysis.cli drift RUN -f csv", "pli_analysis.cli watch RUN"]
)
def test_nobody_need_listen(words, runs):
    shell = f"{sys.executable} -m {words.replace('RUN', str(runs['gpt2']))} >&-; echo $?"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", ["pli_train.cli presets", "pli_analysis.cli drift RUN -f csv", "pli_analysis.cli scalars RUN -f csv"]
)
def test_a_full_disk_is_one_line(words, unbuffered, runs, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)  # as it decides where the disk is found full
    shell = f"{sys.executable} -m {words.replace('RUN', str(runs['gpt2']))} >/dev/full; echo $?"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "1\n"
    assert done.stderr == "error: output: no space left on device\n"


# --- terminals ------------------------------------------------------------------------------------------------------

BAR = re.compile(r"\d+ of \d+ (tensors of all checkpoints|checkpoints|steps) ")
COLOR = re.compile(r"\x1b\[[\d;]*m")
"""Escape codes for colors and bold."""
CLEARED = "\x1b[1A\x1b[2K"
"""Escape codes to move up one line and clear it."""


@pytest.mark.parametrize(
    ("environment", "drawn"),
    [({}, True), ({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)],
    ids=["usual", "no color", "dumb"],
)
def test_a_bar_is_on_terminals_alone(runs, tmp_path, environment, drawn):
    environment["PLI_CACHE"] = str(tmp_path)
    code, _, said = at_a_terminal("pli-analyze", "drift", runs["gpt2"], "-o", tmp_path / "drift.csv", **environment)
    assert code == 0 and bool(COLOR.search(said)) == (not environment.get("NO_COLOR") and drawn)
    assert bool(BAR.search(COLOR.sub("", said))) == ("\x1b" in said) == drawn
    if drawn:
        assert said.endswith(CLEARED) and said.count("\x1b[?25h") == 1, "the bar is taken away, the cursor is back"
    said = at_a_terminal("pli-train", "verify", runs["gpt2"], **environment)[2]
    assert bool(BAR.search(COLOR.sub("", said))) == drawn


def test_quiet_draws_no_bar(runs, tmp_path):
    words = ["drift", runs["gpt2"], "-q", "-o", tmp_path / "drift.csv"]
    assert at_a_terminal("pli-analyze", *words, PLI_CACHE=str(tmp_path)) == (0, "", "")


def test_training_has_a_bar_and_lines_above_it(config_of, tmp_path, corpus):
    config = tmp_path / "mine.toml"
    config.write_text(
        'extends = "tiny-gpt2"\n[tokenizer]\nvocab_size = 300\n[train]\nsteps = 8\nblock_size = 16\neval_blocks = 4\n'
        f'log_every = 1\n[data]\nsource = "{corpus}"\n[model]\nconfig = {{ n_embd = 32, n_head = 2 }}\n'
    )
    words = ["run", config, "--set", "growth.schedule=0.5@0", "--out", tmp_path / "run"]
    code, out, said = at_a_terminal("pli-train", *words)
    assert code == 0 and out.strip() == str(tmp_path / "run")
    said = COLOR.sub("", said)
    assert BAR.search(said) and re.search(r" loss \d", said)
    grown = next(line for line in said.splitlines() if "2 layers (b a), eval loss" in line)
    assert grown.rpartition("\x1b[2K")[2].startswith("step 4: "), "the bar gives way to it"


@pytest.mark.parametrize("words", [["watch", "RUN", "--once"], ["drift", "RUN"], ["drift", "--help"]])
def test_no_color_means_no_escape_code(words, runs):
    words = [runs["gpt2"] if word == "RUN" else word for word in words]
    code, out, said = at_a_terminal("pli-analyze", *words, NO_COLOR="1")
    assert code == 0 and out and "\x1b" not in out and not COLOR.search(said)
    assert "\x1b" not in at_a_terminal("pli-analyze", *words, TERM="dumb")[1]
    piped = call("pli-analyze", *words)
    assert "\x1b" not in piped.stdout + piped.stderr
    if words[0] == "watch":
        assert "\x1b[" in at_a_terminal("pli-analyze", *words, NO_COLOR="")[1], "and a terminal has colors otherwise"


# --- a shell that completes words -----------------------------------------------------------------------------------


def completed(name, words, shell="bash"):
    """Return the completions of the last of these words, as a shell gets them."""
    typed = f"{name} {words}"
    environment = {
        "PYTHONPATH": str(ROOT),
        f"_{name.upper().replace('-', '_')}_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    module = {"pli-train": "pli_train.cli", "pli-analyze": "pli_analysis.cli"}[name]
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, env=os.environ | environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("pli-analyze", "d", ["drift", "disturbance", "doctor"]),
        ("pli-analyze", "embed runs/tiny --method ", ["pca", "tsne", "umap"]),
        ("pli-analyze", "drift --of h", ["head"]),
        ("pli-analyze", "grad-norms --of emb", ["embeddings"]),
        ("pli-analyze", "embed --space u", ["updates"]),
        ("pli-analyze", "compare --by ", ["step", "tokens", "flops", "seconds"]),
        ("pli-analyze", "lineage runs/tiny -f ", ["table", "json", "csv", "md", "latex", "parquet"]),
        ("pli-analyze", "report --q", ["--quiet"]),
        ("pli-train", "run ti", ["tiny", "tiny-bert", "tiny-gpt2", "tiny-vit"]),
        ("pli-train", "check see", ["seed-appendix"]),
        ("pli-train", "verify runs/tiny --format m", ["md"]),
        ("pli-train", "resume runs/ti", []),  # a path: the shell knows those
    ],
)
def test_words_are_completed(name, words, expected):
    assert completed(name, words) == expected


def test_presets_are_completed_as_they_are_listed():
    from pli_train.config import loading

    assert sorted(completed("pli-train", "plan ")) == sorted(loading.presets())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered_too(shell):
    message = " ".join(completed("pli-analyze", "embed --method ", shell))
    assert re.findall(r"\w+", message.rpartition("((")[2]) == ["pca", "tsne", "umap"]


@pytest.mark.parametrize("name", APPS)
def test_completion_is_shown_to_the_shell_that_asks(name, tmp_path):
    module = inspect.getmodule(APPS[name].registered_commands[0].callback).__name__.split(".")[0]
    asked = f"{sys.executable} -m {module}.cli --show-completion; true"  # `true`, so that bash stays the parent
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == f"complete -o default -F _{name.replace('-', '_')}_completion {name}"
    assert "--install-completion" in helps(name, "", 80)
    assert list(tmp_path.iterdir()) == []
