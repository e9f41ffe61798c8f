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
    """Look at a run until it is finished, or Ctrl-C.

    Args:
        run: its folder.
        every: so many seconds.
        once: print one frame and return; so it is too where stdout is no terminal to draw on, and no page is served.
        port: of the page, which is served until Ctrl-C; any free one for 0, no page for None.

    Raises:
        BadInput: when there is no run, or the port cannot be had.
    """
    console = Console(highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")  # rich keeps bold
    terminal = sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal
    with ExitStack() as stack:
        watching = stack.enter_context(closing(RunWatcher(run)))
        if port is None and (once or not terminal):
            _print(console, _with_newest_drift(watching))
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
            frame = watching.poll()
            if served is not None:
                served.show(frame)
                frame = replace(frame, notes=(*frame.notes, *filter(None, [served.note])))
            elif frame.finished:
                show(_with_newest_drift(watching))
                return
            show(frame)
            time.sleep(every)


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Ctrl-C is how one ends looking on. SIGTERM leaves the terminal as it was, too."""

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
    """What to call with each frame: it takes the whole terminal, and at the end leaves the last frame on it."""
    below = "Ctrl-C ends this" + (f" and the page at {url}" if url else "; it ends with the run")
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
    """Print a frame. Not by rich itself, which makes a failure of a pipe that was closed."""
    with console.capture() as captured:
        console.print(screen.drawn(frame))
    print(captured.get(), end="")


def _show_nothing(frame: Frame) -> None:
    """Show nothing: only a page is served."""


def _with_newest_drift(watching: RunWatcher) -> Frame:
    """A frame with the drift of the newest checkpoint."""
    watching.poll()
    watching.wait()
    return watching.poll()
