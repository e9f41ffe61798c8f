"""A run that is watched, without a terminal."""

import io

from rich.console import Console

from pli_analysis.watch import screen


def sorted_by_step(watched):
    """The frame once drift is measured."""
    watched.poll()
    watched.wait()
    return watched.poll()


def printed(shown, width=100, draw=screen.drawn):
    """A frame as a terminal so wide shows it, without colours; `draw` lays it out."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(draw(shown))
    return out.getvalue()


def content(folder):
    """When each file was last written, and how long it is."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.rglob("*"))}
