"""Draw the state of a study in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pli_analysis.watch.screen import bar, spark
from pli_train.core.cli.console import plain
from pli_train.core.run_format.study_folder import COMPLETE, FAIL, PRUNED, RUNNING

if TYPE_CHECKING:
    from pli_analysis.metrics.sweep.trials import Trial
    from pli_analysis.watch.study import ArmState, RunningTrial, StudyFrame

WORDS = {COMPLETE: "complete", PRUNED: "pruned", FAIL: "failed", RUNNING: "running"}
WIDTH = 12
"""Width of curves and bars in characters, so that rows fit in 80."""


def drawn(frame: StudyFrame, below: str = "") -> RenderableType:
    """Lay out a frame for rich.

    Args:
        frame: the frame.
        below: the last line.
    """
    parts: list[RenderableType] = [_head(frame)]
    parts.append(_arms(frame.arms) if frame.arms else Text("no trials yet", style="dim"))
    if frame.running:
        parts += [Text(), _running(frame.running)]
    if frame.ended:
        parts += [Text(), _ended(frame.ended)]
    parts += [Text(plain(note), style="yellow") for note in frame.notes]
    if below:
        parts.append(Text(plain(below), style="dim"))
    return Group(*parts)


def _head(frame: StudyFrame) -> Text:
    state = "running" if frame.coordinated else "finished" if frame.finished else "not running on this machine"
    return Text.assemble((plain(frame.name), "bold"), "  ", (state, "green" if frame.coordinated else "dim"))


def _arms(arms: tuple[ArmState, ...]) -> Table:
    """Return one row per arm: trials by state, and the best value so far."""
    table = _grid("arm", *WORDS.values(), "lowest", "best so far", "trial")
    for arm in arms:
        counts = [Text(str(arm.counts[state]), style="" if arm.counts[state] else "dim") for state in WORDS]
        best = "" if arm.value is None else f"{arm.value:.4f}"
        table.add_row(Text(plain(arm.arm), style="bold"), *counts, Text(best), *_best(arm))
    return table


def _best(arm: ArmState) -> tuple[Text, Text]:
    """Return the curve of the lowest value so far, and the name of the best trial."""
    return Text(spark(arm.lowest, WIDTH) if arm.best else ""), Text(plain(arm.best))


def _running(running: tuple[RunningTrial, ...]) -> Table:
    """Return one row per trial that has not ended: its step, and its eval losses or else its state."""
    table = _grid("running trial", "step", "progress", "eval loss", "eval losses")
    for trial in running:
        step = f"{trial.step:,}" + (f" of {trial.total:,}" if trial.total else "")
        share = bar(trial.step / trial.total, WIDTH) if trial.total else ""
        loss = f"{trial.evals[-1]:.3f}" if len(trial.evals) else ""
        state = spark(trial.evals, WIDTH) if trial.training else trial.state.value
        table.add_row(Text(plain(trial.name)), Text(step), Text(share), Text(loss), Text(state))
    return table


def _ended(ended: tuple[Trial, ...]) -> Table:
    """Return one row per trial that ended last: its value, or why it has none."""
    table = _grid("last ended", "", "")
    for trial in ended:
        at = f"at step {trial.pruned_at:,}" if trial.pruned_at is not None else ""
        result = f"{trial.value:.4f}" if trial.value is not None else trial.error or at
        style = "red" if trial.state == FAIL else "dim" if trial.state == PRUNED else ""
        table.add_row(Text(plain(trial.name)), Text(WORDS[trial.state], style=style), Text(plain(result)))
    return table


def _grid(*heads: str) -> Table:
    """Return a table without lines, with dim column heads."""
    table = Table.grid(padding=(0, 2))
    for _ in heads:
        table.add_column(no_wrap=True)
    table.add_row(*(Text(head, style="dim") for head in heads))
    return table
