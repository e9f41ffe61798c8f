"""Build a page in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis.inference.devices import use_device
from pli_analysis.report import content, page
from pli_analysis.runs.opening import open_run
from pli_train.core import output
from pli_train.core.cli.shell import run_process
from pli_train.core.errors import PliError

if TYPE_CHECKING:
    from threading import Event

POLL_SECONDS = 0.1
"""Seconds between checks whether the page is still wanted."""
NICE = 10
"""Niceness of the process, so that training keeps the CPU."""


def build(run: Path, version: str, ending: Event) -> bytes:
    """Build the page of a run's current state, as HTML bytes.

    Args:
        run: folder of the run.
        version: version of the page, see `page.html`.
        ending: set to cancel the build.

    Raises:
        PliError: when the page cannot be built, or the build was cancelled.
    """
    with tempfile.TemporaryDirectory(prefix="pli-page-") as folder:
        out = Path(folder, "page.html")
        # -P keeps modules in the current folder from being imported. A new session keeps Ctrl-C from the subprocess.
        command = [sys.executable, "-P", "-m", __name__, str(run), version, str(out)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:  # type: ignore[call-overload]
            stderr = _wait(process, ending)
        if process.returncode:
            lines = stderr.strip().splitlines()
            raise PliError(lines[-1].removeprefix("error: ") if lines else f"exit code {process.returncode}")
        return out.read_bytes()


def _wait(process: subprocess.Popen[str], ending: Event) -> str:
    """Wait for a process, kill it once `ending` is set, and return its stderr."""
    while True:
        try:
            return process.communicate(timeout=POLL_SECONDS)[1]
        except subprocess.TimeoutExpired:
            if ending.is_set():
                process.kill()


def main() -> None:
    """Build a page in this process; the arguments are RUN VERSION OUT."""
    os.nice(NICE)
    use_device("cpu")  # the GPU is for the training that is watched
    run, version, out = sys.argv[1:]
    output.write(Path(out), page.html(content.build(open_run(run)), version))


if __name__ == "__main__":
    run_process(main)
