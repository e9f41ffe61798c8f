"""The loop of `pli-analyze watch`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from pli_analysis.watch import screen
from pli_analysis.watch.watcher import RunWatcher

if TYPE_CHECKING:
    from pathlib import Path

    from pli_analysis.watch.frame import Frame


def watch_run(run: Path, every: float, once: bool = False, port: int | None = None) -> None:
    """Show a run until it is finished, or until Ctrl-C.

    Args:
        run: folder of the run.
        every: seconds between refreshes.
        once: print one frame and return; also done if stdout is no terminal and no page is served.
        port: port of the page, which is served until Ctrl-C; 0 for any free port, None for no page.

    Raises:
        BadInput: when there is no run, or the port cannot be used.
    """
    console = Console(
        highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto"
    )  # rich still prints bold text
    terminal = sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal
    with ExitStack() as stack:
        watcher = stack.enter_context(closing(RunWatcher(run)))
        if port is None and (once or not terminal):
            _print(console, _with_newest_drift(watcher))
            return
        stack.enter_context(_until_stopped())
        served = None
        if port is not None:
            from pli_analysis.watch.serving import Served

            served = stack.enter_context(closing(Served(run, port)))
            print(served.url, flush=True)
        show = (
            stack.enter_context(_screen(console, None if served is None else served.url)) if terminal else _show_nothing
        )
        while True:
            frame = watcher.poll()
            if served is not None:
                served.show(frame)
                frame = replace(frame, notes=(*frame.notes, *filter(None, [served.note])))
            elif frame.finished:
                show(_with_newest_drift(watcher))
                return
            show(frame)
            time.sleep(every)


@contextmanager
def _until_stopped() -> Iterator[None]:
    """End quietly on Ctrl-C, and restore the terminal on SIGTERM too."""

    def stop(*_: Any) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _screen(console: Console, url: str | None) -> Iterator[Callable[[Frame], None]]:
    """Yield a function that draws a frame on the whole terminal; the last frame remains at the end."""
    below = "Ctrl-C to quit" + (f" and to stop serving {url}" if url else "; ends with the run")
    last: list[Frame] = []
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:

            def show(frame: Frame) -> None:
                last[:] = [frame]
                live.update(screen.drawn(frame, below), refresh=True)

            yield show
    finally:
        if last:
            _print(console, last[0])


def _print(console: Console, frame: Frame) -> None:
    """Print a frame with `print`, because rich treats a closed pipe as an error."""
    with console.capture() as captured:
        console.print(screen.drawn(frame))
    print(captured.get(), end="")


def _show_nothing(frame: Frame) -> None:
    """Show nothing, for a page served without a terminal."""


def _with_newest_drift(watcher: RunWatcher) -> Frame:
    """Return a frame with the drift at the newest checkpoint."""
    watcher.poll()
    watcher.wait()
    return watcher.poll()
