"""Build a page in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis.report import content, page
from pli_analysis.runs.opening import open_run
from pli_train.core import output
from pli_train.core.cli.shell import run_process
from pli_train.core.errors import PliError

if TYPE_CHECKING:
    from threading import Event

POLL_SECONDS = 0.1
"""Seconds between looks at whether it is still wanted."""
NICE = 10
"""How far it gives way to other processes."""


def build(run: Path, version: str, ending: Event) -> bytes:
    """The page of a run as it is now.

    Args:
        run: its folder.
        version: that the page names itself by, see `page.html`.
        ending: once set, nobody wants the page any more.

    Raises:
        PliError: when it cannot be made, or is not wanted.
    """
    with tempfile.TemporaryDirectory(prefix="pli-page-") as folder:
        out = Path(folder, "page.html")
        # -P: a folder that one stands in must not lend its modules. Its own session: Ctrl-C is ours alone.
        command = [sys.executable, "-P", "-m", __name__, str(run), version, str(out)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:  # type: ignore[call-overload]
            said = _wait(process, ending)
        if process.returncode:
            lines = said.strip().splitlines()
            raise PliError(lines[-1].removeprefix("error: ") if lines else f"exit code {process.returncode}")
        return out.read_bytes()


def _wait(process: subprocess.Popen[str], ending: Event) -> str:
    """What a process said on stderr, once it is over."""
    while True:
        try:
            return process.communicate(timeout=POLL_SECONDS)[1]
        except subprocess.TimeoutExpired:
            if ending.is_set():
                process.kill()


def main() -> None:
    """What the process does: `RUN VERSION OUT`."""
    os.nice(NICE)
    run, version, out = sys.argv[1:]
    output.write(Path(out), page.html(content.build(open_run(run)), version))


if __name__ == "__main__":
    run_process(main)
