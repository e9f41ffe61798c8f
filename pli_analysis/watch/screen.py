"""Draw a frame in the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pli_analysis.watch.frame import SMOOTHED
from pli_train.core.cli.console import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pli_analysis.watch.frame import Frame, Growth

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Width of a curve in characters."""
ROWS = 12
"""Number of layers per column of the table."""
BAR = 8
"""Width of the longest bar in characters."""


def drawn(frame: Frame, below: str = "") -> RenderableType:
    """Lay out a frame for rich.

    Args:
        frame: the frame.
        below: the last line.
    """
    parts: list[RenderableType] = [_head(frame), _facts(frame)]
    if frame.growth:
        parts += [Text(), _growth(frame.growth)]
    if frame.stack:
        parts += [Text(), _layers(frame)]
    parts += [Text(plain(note), style="yellow") for note in frame.notes]
    if below:
        parts.append(Text(plain(below), style="dim"))
    return Group(*parts)


def spark(values: np.ndarray, width: int = WIDTH) -> str:
    """Draw a curve as one line of characters, the mean of each interval; a gap where no value is finite.

    >>> spark(np.array([8.0, 7.0, 6.0, 1.0]), 4), spark(np.array([2.0, 2.0])), spark(np.array([]))
    ('█▇▆▁', '▁▁', '')
    """
    means = (
        [_mean(interval) for interval in np.array_split(values, min(width, len(values)) or 1)] if len(values) else []
    )
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = (high / 2 - low / 2) or 1.0  # halved, because the difference may overflow
    shares = [(mean / 2 - low / 2) / span for mean in means]
    return "".join(BLOCKS[round(share * (len(BLOCKS) - 1))] if math.isfinite(share) else " " for share in shares)


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(42.4), duration(312), duration(7500)
    ('42 s', '5 min 12 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        return float(finite.mean()) if len(finite) else math.nan


def _head(frame: Frame) -> Text:
    state = "training" if frame.training else "finished" if frame.finished else "not training on this machine"
    return Text.assemble((plain(frame.name), "bold"), "  ", (state, "green" if frame.training else "dim"))


def _facts(frame: Frame) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, value in _describe(frame):
        table.add_row(label, Text(plain(value)))
    return table


def _describe(frame: Frame) -> list[tuple[str, str]]:
    """Return label and value of each fact."""
    step = f"{frame.step:,}"
    if frame.total:
        step += f" of {frame.total:,}  {bar(frame.step / frame.total, 20)}  {frame.step / frame.total:.0%}"
    if frame.left is not None and frame.training:
        step += f"  {duration(frame.left)} left"
    facts = [("step", step)]
    if frame.rate is not None:
        facts.append(("speed", f"{frame.rate:,.0f} tokens/s"))
    if frame.loss is not None:
        count = min(len(frame.losses), SMOOTHED)
        facts.append(("train loss", f"{frame.loss:.3f}  {spark(frame.losses)}  mean of the last {count}"))
    if len(frame.evals):
        facts.append(("eval loss", f"{frame.evals[-1]:.3f}  {spark(frame.evals)}"))
    if frame.loss is None and not len(frame.evals):
        facts.append(("loss", "none logged yet (or tracking.tensorboard = false)"))
    facts.append(("checkpoint", frame.checkpoint or "none complete yet; the first one adds layers, growth and drift"))
    if frame.stack:
        facts.append(("stack", f"{' '.join(frame.stack)}  ({len(frame.stack)} layers, bottom to top)"))
    return facts


def _growth(events: tuple[Growth, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_row(*(Text(word, style="dim") for word in ("step", "growth", "eval loss before → after")))
    for event in events:
        sides = [event.before, event.after]
        loss = " → ".join("?" if side is None else f"{side:.3f}" for side in sides)
        if event.before is not None and event.after is not None:
            loss += f"  ({event.after - event.before:+.3f})"
        table.add_row(Text(f"{event.step:,}"), Text(plain(event.label)), Text(loss))
    return table


def _layers(frame: Frame) -> RenderableType:
    """Return one row per layer, the top layer first."""
    most_norm, most_drift = _most(frame.norms), _most(frame.drift)
    blocks = []
    rows = list(reversed(list(enumerate(frame.stack))))
    for start in range(0, len(rows), ROWS):
        table = Table.grid(padding=(0, 1))
        for right in (True, False, True, True, False, True, False):
            table.add_column(justify="right" if right else "left", no_wrap=True)
        table.add_row(*(Text(word, style="dim") for word in ("", "", "born", "gradient", "", "drift", "")))
        for position, id in rows[start : start + ROWS]:
            table.add_row(
                Text(str(position), style="dim"),
                Text(plain(id), style="bold"),
                Text(str(frame.born.get(id, "")), style="dim"),
                *_measured(frame.norms.get(id), most_norm),
                *_measured(frame.drift.get(id), most_drift),
            )
        blocks.append(table)
    return Group(Columns(blocks, padding=(0, 4)), *_drift_note(frame))


def _drift_note(frame: Frame) -> list[Text]:
    """Return a line if the drift shown is not that of the newest checkpoint."""
    if frame.drift_at == frame.checkpoint:
        return []
    shown = f"; shown is {frame.drift_at}" if frame.drift_at else ""
    return [Text(plain(f"drift at {frame.checkpoint} is not measured yet{shown}"), style="dim")]


def _measured(value: float | None, most: float) -> tuple[Text, Text]:
    """Return a value and its bar relative to the largest one."""
    if value is None:
        return Text(""), Text("")
    return Text(f"{value:.3g}"), Text(bar(value / most if most > 0 else 0.0, BAR), style="cyan")


def _most(values: Mapping[str, float]) -> float:
    return max(filter(math.isfinite, values.values()), default=0.0)


def bar(share: float, width: int) -> str:
    """Draw a bar for a share from 0 to 1, with a resolution of an eighth of a character.

    >>> bar(0.5, 4), bar(2.0, 4), bar(math.nan, 4)
    ('██  ', '████', '    ')
    """
    eighths = round(min(max(share, 0.0), 1.0) * width * 8) if math.isfinite(share) else 0
    full, part = divmod(eighths, 8)
    return f"{'█' * full + ('', *'▏▎▍▌▋▊▉')[part]:<{width}}"
