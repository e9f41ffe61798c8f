"""Run the commands in a document's `console` blocks and compare their output with the lines shown below them.

    ```console
    $ pli-train presets | head -1
    baseline       …
    $ pli-train plan tny   # exit 2
    error: no preset 'tny'; did you mean 'tiny'?…
    ```

A line that is only `…` matches any number of lines, and `…` within a line matches any text. Whole numbers are compared
exactly. Numbers with a decimal point, an exponent or a percent sign match any number, as they depend on the machine.
Widths of blanks and rules and empty lines are ignored. A command fails if its exit code is not 0, or not the N
of its `# exit N`. In a block marked `console varies`, whose sentences depend on measured numbers, only the
first word of each line is compared.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROMPT = "$ "
ANYTHING = "…"
VARIABLES = {"TRANSFORMERS_VERBOSITY": "error"}
"""Environment of the commands, beside that of the tests."""

_BLOCK = re.compile(r"^```console( varies)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_EXIT = re.compile(r"\s+# exit (\d+)$")
_MEASURED = re.compile(r"[-+]?(?:\d+\.\d+(?:e[-+]?\d+)?%?|\d+e[-+]?\d+|\d+%)")
_ANY_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?%?"


@dataclass(frozen=True)
class ShownCommand:
    """A command of a document with its expected exit code and output."""

    line: int
    command: str
    code: int
    output: tuple[str, ...]
    varies: bool = False


def commands(text: str) -> Iterator[ShownCommand]:
    """Yield the commands of a document, in order. Raises ValueError for a block that does not begin with one."""
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(2)) + 1
        lines = block[2].splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith(PROMPT)]
        if not starts or starts[0] != 0:
            raise ValueError(f"line {first}: a console block must begin with a command, `$ …`")
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            command = lines[start].removeprefix(PROMPT)
            code = _EXIT.search(command)
            output = tuple(lines[start + 1 : end])
            yield ShownCommand(first + start, command, int(code[1]) if code else 0, output, bool(block[1]))


def run(command: str, folder: Path, programs: Path | None = None, **variables: str) -> tuple[int, str]:
    """Run a command. Return its exit code and its stdout and stderr combined.

    Programs in the folder `programs` take precedence over the installed ones; `variables` are of its environment.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | VARIABLES | variables
    folders = [*([programs] if programs else []), Path(sys.executable).parent, os.environ["PATH"]]
    environment["PATH"] = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout


def disagreement(shown: ShownCommand, code: int, printed: str) -> str | None:
    """Return how a command's result differs from the document, or None."""
    if code != shown.code:
        return f"line {shown.line}: `{shown.command}` returned exit code {code}, expected {shown.code}:\n{printed}"
    expected, actual = _lines(shown.output), _lines(printed.splitlines())
    if shown.varies:
        expected, actual = ([line.split()[0] for line in lines] for lines in (expected, actual))
    if re.fullmatch("".join(map(_pattern, expected)), "".join(f"{line}\n" for line in actual)):
        return None
    differences = "\n".join(difflib.unified_diff(expected, actual, "shown", "printed", lineterm=""))
    return f"line {shown.line}: `{shown.command}` prints something else:\n{differences}"


def check(text: str, folder: Path, programs: Path | None = None, **variables: str) -> list[str]:
    """Run a document's commands in order in a folder. Return the differences."""
    ran = ((shown, *run(shown.command, folder, programs, **variables)) for shown in commands(text))
    return [message for shown, code, printed in ran if (message := disagreement(shown, code, printed))]


def _lines(lines: tuple[str, ...] | list[str]) -> list[str]:
    """Return lines with single blanks and rules of length one, without empty lines."""
    plain = (re.sub(r"─+|-{3,}", "─", " ".join(line.split())) for line in lines)
    return [line for line in plain if line]


def _pattern(line: str) -> str:
    """Return a regular expression for the lines that an expected line matches."""
    if line == ANYTHING:
        return r"(?:.*\n)*"
    parts, at = [], 0
    for number in _MEASURED.finditer(line):
        parts += [_literal(line[at : number.start()]), _ANY_NUMBER]
        at = number.end()
    return "".join([*parts, _literal(line[at:]), r"\n"])


def _literal(text: str) -> str:
    return ".*".join(map(re.escape, text.split(ANYTHING)))
