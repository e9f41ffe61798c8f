"""Output of the commands without Unicode: on ASCII and old terminals, and in the C locale."""

import os
import re
import subprocess
import sys

import pytest

from pli_train.core.cli import encoding
from tests.commands import at_a_terminal, call, fresh
from tests.thinned import thinned
from tests.warm import PACKAGES, ROOT

UNICODE = {"PYTHONIOENCODING": "utf-8"}
C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
PATHS = {
    "ascii": ({"PYTHONIOENCODING": "ascii"}, "ascii"),
    "cp1252": ({"PYTHONIOENCODING": "cp1252"}, "cp1252"),
    "latin-1": ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
    "C": (C, "ascii"),
}


def numbers(text):
    """Text that a fallback must not change. The line of the cache is left out: other processes change its sizes."""
    return re.findall(r"[0-9]+", re.sub(r"^ *cache  .*", "", text, flags=re.M))


PRINTED = [  # the Unicode in it
    ("pli-analyze lineage RUN --tree", "└─"),
    ("pli-analyze drift RUN", "─"),
    ("pli-analyze watch RUN --once", "→"),
    ("pli-analyze compare RUN", "─"),
    ("pli-train verify RUN", "─"),
    ("pli-train schedules", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "sign"), thinned(PRINTED), ids=[words for words, _ in PRINTED])
def test_what_is_printed_is_the_same_in_other_signs(words, sign, small_run):
    words = words.replace("RUN", str(small_run)).split()
    usual = call(*words, text=False)
    expected = usual.stdout.decode()
    assert sign is None or sign in expected
    for environment, name in PATHS.values() if sign == "└─" else [PATHS["ascii"], PATHS["C"]]:
        done = fresh(*words, env=environment)
        assert done.returncode == usual.returncode == 0
        message = done.stdout.decode(name)
        assert numbers(message) == numbers(expected) and len(message.splitlines()) == len(expected.splitlines())
        assert "?" not in message or "?" in expected
        assert numbers(done.stderr.decode(name)) == numbers(usual.stderr.decode())


@pytest.mark.slow
@pytest.mark.parametrize("position", PATHS)
@pytest.mark.parametrize("words", ["report RUN", "disturbance RUN --placebos 0", "embed RUN", "doctor"])
def test_what_loads_torch_is_printed_too(words, position, small_run):
    words = f"pli-analyze {words}".replace("RUN", str(small_run)).split()
    environment, name = PATHS[position]
    done, usual = fresh(*words, env=environment), call(*words, text=False)
    assert done.returncode == usual.returncode == 0
    assert numbers(done.stdout.decode(name)) == numbers(usual.stdout.decode())


def test_a_table_keeps_its_columns(small_run):
    usual, plain = (
        fresh("pli-analyze", "lineage", small_run, env=position).stdout.decode()
        for position in (UNICODE, {"PYTHONIOENCODING": "ascii"})
    )
    assert usual.replace("─", "-") == plain != usual


def test_machines_read_the_same(small_run):
    for format in ("json", "md"):
        words = ["pli-analyze", "lineage", small_run, "-f", format]
        assert fresh(*words, env=C).stdout == call(*words, text=False).stdout


def test_files_are_utf_8_whatever_the_terminal_is(small_run, tmp_path):
    for name, environment in {"usual": UNICODE, "plain": C}.items():
        page, table = (tmp_path / f"{name}.{ending}" for ending in ("html", "txt"))
        words = ["pli-analyze", "lineage", small_run, "--html", page, "-o", table]
        assert fresh(*words, env=environment).returncode == 0
    for ending in ("html", "txt"):
        assert (tmp_path / f"plain.{ending}").read_bytes() == (tmp_path / f"usual.{ending}").read_bytes()
    assert "─" in (tmp_path / "plain.txt").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("position", PATHS)
@pytest.mark.parametrize("name", PACKAGES)
def test_all_help_is_printed(name, position):
    environment, codec = PATHS[position]
    program = f"""
import sys
from typer.main import get_command
from {PACKAGES[name]}.cli import app, main
for command in ["", *get_command(app).commands]:
    sys.argv = [{name!r}, *filter(None, [command]), "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, command
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(codec).count("Usage: ") > 5


@pytest.mark.parametrize("position", ["ascii", "latin-1", "C"])
@pytest.mark.parametrize("words", ["pli-analyze drift", "pli-train run"])
def test_an_error_quotes_any_name(words, position):
    environment, codec = PATHS[position]
    done = fresh(*words.split(), "n\u00e4her/\u2192\u65e5.toml", env=environment)
    error = done.stderr.decode(codec)
    assert done.returncode == 2 and done.stdout == b"" and error.count("\n") == 1 and error.startswith("error: n")
    if position == "ascii":
        assert "n\\xe4her/->\\u65e5.toml" in error
    if position == "latin-1":
        assert "näher/->\\u65e5.toml" in error


def test_a_name_that_is_no_text_is_quoted_as_its_bytes(tmp_path):
    for environment in (UNICODE, C):
        done = fresh("pli-analyze", "drift", os.fsdecode(b"a\xffb"), env=environment, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith(b"error: a\\xffb: no such folder")


def test_a_printed_path_is_the_path(small_run, tmp_path):
    """Scripts read it from stdout and use it."""
    folder = os.fsencode(tmp_path) + b"/\xffn\xc3\xa4her"
    for environment in (UNICODE, C):
        done = fresh("pli-analyze", "scalars", small_run, "--download", os.fsdecode(folder), env=environment)
        assert done.returncode == 0 and done.stdout == folder + b"\n"


@pytest.mark.slow
def test_training_goes_on_in_the_c_locale(tmp_path, corpus):
    """Every file is opened as UTF-8 in any locale."""
    (tmp_path / "mine.toml").write_text(
        'extends = "tiny-gpt2"\ndescription = "näher → 1"\n[tokenizer]\nvocab_size = 300\n'
        "[train]\nsteps = 4\nblock_size = 16\n"
        f'eval_blocks = 4\n[data]\nsource = "{corpus}"\n[model]\nconfig = {{ n_embd = 16, n_head = 2 }}\n',
        encoding="utf-8",
    )
    program = """
import sys
from pli_train.cli import main
for words in (["run", "mine.toml", "--set", "growth.schedule=0.5@0", "-o", "run"], ["export", "run", "out"]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, words
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | C | {"PYTHONWARNDEFAULTENCODING": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"run\nout\n")
    assert b"->" in done.stderr and done.stderr.isascii()
    warned = [line for line in done.stderr.splitlines() if b"EncodingWarning" in line]
    assert [line for line in warned if b"/pli_train/" in line or b"/pli_analysis/" in line] == []
    assert "näher → 1" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_a_live_view_is_drawn(small_run):
    code, out, said = at_a_terminal("pli-analyze", "watch", small_run, PYTHONIOENCODING="ascii")
    assert code == 0 and out.isascii() and "->" in out and said == ""


def test_streams_that_are_closed(small_run):
    """With a closed stderr, messages must not end up among the data on stdout."""
    command = f"{sys.executable} -m pli_analysis.cli compare {small_run} -f csv"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    message = [
        subprocess.run(["bash", "-c", f"{command} {close}"], capture_output=True, env=environment)
        for close in ("2>/dev/null", "2>&-", "<&- 2>&-")
    ]
    assert {done.returncode for done in message} == {0} and len({done.stdout for done in message}) == 1
    silent = subprocess.run(["bash", "-c", f"{command} >&-"], capture_output=True, env=environment)
    assert silent.returncode == 0 and silent.stderr.count(b"\n") == 1 and b"error" not in silent.stderr


# --- the handler itself ---------------------------------------------------------------------------------------------


def test_whatever_there_is_has_some_ascii():
    for code in [*range(0xD800), *range(0xE000, 0x30000, 7)]:
        assert encoding.plain(chr(code)).isascii()


@pytest.mark.parametrize("codec", ["ascii", "latin-1", "cp1252", "cp437", "cp037", "shift_jis", "utf-8"])
def test_no_text_fails_in_any_encoding(codec):
    text = "a → b × 2 ▆ é 日 \udcff\ud800 \U0001f600"
    assert "b" in text.encode(codec, encoding.HANDLER).decode(codec, "replace")


def test_what_is_drawn_is_one_character_wide():
    assert all(len(plain) == 1 for plain in encoding.DRAWN)
    signs = "".join(encoding.DRAWN.values())
    assert len(set(signs)) == len(signs) and not set(signs) & encoding.WORDS.keys()
