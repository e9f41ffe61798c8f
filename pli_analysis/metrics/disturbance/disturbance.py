"""Disturbance: the effect of each growth event on the loss and on the older layers.

*Instant* is what lies between the two checkpoints around an event, with no training between them: see `at_event`.
*Dynamic* is what training did in a window behind it: see `loss_response` for the loss and `layer_speeds` for layers.
A layer's excess movement is a difference in differences: log(speed after ÷ speed before), less the same at placebo
steps of this run, or less that of the twin that did not grow, which has the stretch before in common. `placebo` says
which steps are placebos of a step. Training losses of steps that trained with two layers swapped (`growth.swapping`)
are left out. Several events of one step are told as one, for there is no checkpoint between them.

Columns of `events`, one row a step with events:
    step, event   updates done before it, and what happened in a word or two
    index         the lowest place of the stack that it touched; empty where it touched none
    loss_change, loss_change_low, loss_change_high, kl, flips, blocks, documents   of `at_event.StateComparison`, over
                  all held-out blocks that the run keeps; empty without a checkpoint before the event
    loss_before, loss_after  eval loss on both sides, as training logged it
    window        steps on each side that all that follows looks at, or as many as there are to the next event
    reference     what the loss is held against: the name of a twin, or `trend`
    spike, recovery_steps, is_recovered, excess_area, late_excess, noise   of `loss_response`; where `is_recovered` is
                  false, `recovery_steps` is how long was looked
    placebo_window  steps on each side, at most those of the window, over which spike and area are held against placebo
                  steps, and all against their trends: the most for which there are 20 of these, else those for which
                  there are most
    lr_phase      phase of the learning rate in these steps, which its placebo steps share: of
                  `pli_train.core.learning_rate.phase`; empty where it changes within them, which leaves none
    spike_z, spike_p, excess_area_p   robust z and p-value of spike and area within `placebo_window`, beside placebo
                  steps
    placebos      how many steps these are
    min_p         1 ÷ (1 + placebos), the least that p-values can be; empty without any

Columns of `layers`, one row a step with events and layer that was there before:
    step, event, layer
    index         where it sits after the event
    layers_from_event  places from the nearest layer that was touched: above it positive, below it negative
    output_change, cka_distance, log_grad_norm_ratio, grad_cosine_distance   of `at_event.LayerChange`
    placebo_window  steps over which it was watched on each side, with a checkpoint at either end, within the window:
                  the most for which there are 20 placebo steps, else those for which there are most
    relative_update_rate_before, relative_update_rate_after   of `layer_speeds`
    excess_log_update_rate  excess movement, in e-folds: it moved exp(excess_log_update_rate) times as fast as it
                  would have
    excess_log_grad_norm  log of the median gradient norm logged in `placebo_window` steps after ÷ before, less the
                  median of placebo steps
    reference     what `excess_log_update_rate` is held against: twin or placebo
    lr_phase      as of events, in the steps of `placebo_window`
    output_change_z, cka_distance_z, log_grad_norm_ratio_z, grad_cosine_distance_z, excess_log_update_rate_z,
    excess_log_grad_norm_z   robust z beside placebo steps; for the first four a placebo is what `placebo_window` steps
                  of usual training change, and sizes without sign are compared; `excess_log_update_rate_z` is of the
                  excess over placebo steps, also where `excess_log_update_rate` is over the twin
    score         the largest of these
    p             share of placebo steps of this layer that score as high, itself counted
    placebos, min_p   as of events, of this layer
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.inference import eval_tokens
from pli_analysis.metrics.disturbance import layer_effects, loss_effect, placebo
from pli_analysis.metrics.disturbance.event_context import EventContext
from pli_analysis.metrics.disturbance.layer_effects import Layers
from pli_analysis.metrics.disturbance.loss_effect import Losses
from pli_analysis.metrics.lineage import by_step
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.disturbance.loss_response import LossResponse
    from pli_analysis.runs.run import Run

CHANGES = [col.LOSS_CHANGE, col.LOSS_CHANGE_LOW, col.LOSS_CHANGE_HIGH, col.KL, col.FLIPS, col.BLOCKS, col.DOCUMENTS]
OF_A_TEXT = 256
"""Blocks of another text, at most, that the change of the loss is of."""
BLOCKS = 8
"""Blocks that layers are compared on: as many for an event as for its placebo steps, whoever asks."""
EVENTS = [col.STEP, col.EVENT, col.INDEX, *CHANGES, *loss_effect.COLUMNS]
LAYERS = [col.STEP, col.EVENT, *layer_effects.COLUMNS]


@dataclass(frozen=True)
class Disturbance:
    """What growth disturbed.

    Attributes:
        events, layers: tables; see this module.
        curves: step of an event → the loss behind it, where enough was logged.
        notes: what whoever asked should know.
        most: placebo steps at most that an event was held against.
    """

    events: pd.DataFrame
    layers: pd.DataFrame
    curves: dict[int, LossResponse]
    notes: list[str]
    most: int


def disturbance(
    run: Run,
    twins: Sequence[Run] = (),
    window: int | None = None,
    at: Sequence[int] = (),
    text: Path | eval_tokens.Text | None = None,
    blocks: int = BLOCKS,
    most: int = placebo.MOST,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Disturbance:
    """What every event of a run did.

    Args:
        run: with checkpoints on both sides of its events.
        twins: forks of it that stopped growing; one at an event's step is what that event is held against.
        window: steps to look at on each side; half of the shortest stretch without events, 200 at most, if None.
        at: steps to treat as if they were events, instead of the run's own: what nothing disturbs.
        text: for what is instant, blocks of it instead of all held-out blocks that the run keeps.
        blocks: how many of these blocks layers are compared on; the change of the loss is of all.
        most: placebo steps at most that an event is held against.
        on_progress: told (steps examined, steps in all), placebos among them.

    Raises:
        BadInput: for steps that the run has not, or a checkpoint that cannot be read.
    """
    import pandas as pd

    context = EventContext(run, tuple(twins), window)
    for step in at:
        context.after(step)
        if step in context.events:
            raise BadInput(f"--at {step}: is a growth event; give steps without one")
    labels = {step: ["no event"] for step in at} or by_step(run.lineage)
    sample, notes = _sample(run, text) if labels else (None, [f"{run.name} did not grow: it has no event to measure"])
    done, total = 0, len(labels) * (1 + most)

    def tick() -> None:
        nonlocal done
        done += 1
        on_progress(min(done, total - 1), total)

    losses, layers = Losses(context, most), Layers(context, most, sample, blocks, tick)
    curves, rows_of_events, rows_of_layers = {}, [], []
    for step, message in labels.items():
        name, after = {col.STEP: step, col.EVENT: " ".join(message)}, losses.after(step)
        known = step in context.mover.starts and (step not in context.events or context.before(step) is not None)
        seen = layers.instant(step) if known else None
        if after is not None:
            curves[step] = after
        if seen is not None and seen.loss_change != seen.loss_change:
            notes.append(f"{run.name} has weights right before or after step {step} that make no finite loss")
        changes = {column: getattr(seen, column) for column in CHANGES} if seen else {}
        lowest = min(context.touched(step), default=None)
        rows_of_events.append(name | {col.INDEX: lowest} | changes | losses.row(step, after))
        if known:
            rows_of_layers += [name | row for row in layers.rows(step)]
        else:
            notes.append(f"{run.name} has no checkpoints right before and after step {step}: its layers are left out")
        tick()
    on_progress(total, total)
    events, tables = pd.DataFrame(rows_of_events, columns=EVENTS), pd.DataFrame(rows_of_layers, columns=LAYERS)
    counts = dict.fromkeys((col.INDEX, col.BLOCKS, col.DOCUMENTS), "Int64")
    whole = dict.fromkeys((col.INDEX, col.LAYERS_FROM_EVENT, col.PLACEBO_WINDOW), "Int64")
    return Disturbance(events.astype(counts), tables.astype(whole), curves, notes + context.unlike, most)


def _sample(run: Run, text: Path | eval_tokens.Text | None) -> tuple[eval_tokens.Sample | None, list[str]]:
    """Blocks to read, and what to say where there are none."""
    if text is None and (lack := eval_tokens.missing_blocks(run)):
        return None, [f"{run.name} {lack}: what an event changes on the spot needs --text FILE"]
    return eval_tokens.sample_of(run, text, None if text is None else OF_A_TEXT), []
