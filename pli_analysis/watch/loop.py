"""The loop of `pli-analyze watch`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.live import Live

from pli_analysis.watch import screen, study_screen
from pli_analysis.watch.study import StudyWatcher
from pli_analysis.watch.watcher import RunWatcher

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from pli_analysis.watch.frame import Frame

F = TypeVar("F")
"""A frame: of a run or of a study."""


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
    console, terminal = _console()
    with ExitStack() as stack:
        watcher = stack.enter_context(closing(RunWatcher(run)))
        if port is None and (once or not terminal):
            _print(console, screen.drawn(_with_newest_drift(watcher)))
            return
        stack.enter_context(_until_stopped())
        served = None
        if port is not None:
            from pli_analysis.watch.serving import Served

            served = stack.enter_context(closing(Served(run, port)))
            print(served.url, flush=True)
        below = f"Ctrl-C to quit and to stop serving {served.url}" if served else "Ctrl-C to quit; ends with the run"
        show = stack.enter_context(_screen(console, screen.drawn, below)) if terminal else _show_nothing
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


def watch_study(folder: Path, every: float, once: bool = False) -> None:
    """Show a study until all its trials have ended, or until Ctrl-C.

    Args:
        folder: study folder.
        every: seconds between refreshes.
        once: print one frame and return; also done if stdout is no terminal.

    Raises:
        BadInput: when the folder is not a study.
    """
    console, terminal = _console()
    watcher = StudyWatcher(folder)
    if once or not terminal:
        _print(console, study_screen.drawn(watcher.poll()))
        return
    below = "Ctrl-C to quit; ends with the study"
    with _until_stopped(), _screen(console, study_screen.drawn, below) as show:
        while not (frame := watcher.poll()).finished:
            show(frame)
            time.sleep(every)
        show(frame)


def _console() -> tuple[Console, bool]:
    """Return the console, and whether it is a terminal that frames can be drawn on."""
    # Without colors, rich still prints bold text.
    console = Console(highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    return console, sys.stdout is not None and sys.stdout.isatty() and not console.is_dumb_terminal


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
def _screen(console: Console, draw: Callable[[F, str], RenderableType], below: str) -> Iterator[Callable[[F], None]]:
    """Yield a function that draws a frame on the whole terminal; the last frame remains at the end.

    Args:
        console: the terminal.
        draw: lays out a frame, with a last line.
        below: the last line.
    """
    last: list[F] = []
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:

            def show(frame: F) -> None:
                last[:] = [frame]
                live.update(draw(frame, below), refresh=True)

            yield show
    finally:
        if last:
            _print(console, draw(last[0], ""))


def _print(console: Console, drawn: RenderableType) -> None:
    """Print a frame with `print`, because rich treats a closed pipe as an error."""
    with console.capture() as captured:
        console.print(drawn)
    print(captured.get(), end="")


def _show_nothing(frame: Frame) -> None:
    """Show nothing, for a page served without a terminal."""


def _with_newest_drift(watcher: RunWatcher) -> Frame:
    """Return a frame with the drift at the newest checkpoint."""
    watcher.poll()
    watcher.wait()
    return watcher.poll()
