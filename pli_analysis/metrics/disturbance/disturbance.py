"""Disturbance: the effect of each growth event on the loss and on the older layers.

*Instant* effects are differences between the two checkpoints around an event, with no training between them: see
`at_event`. *Dynamic* effects are those of training in a window after the event: see `loss_response` for the loss and
`layer_speeds` for layers. A layer's excess update rate is a difference in differences: log(rate after ÷ rate before)
minus the same quantity at placebo steps of this run, or minus that of the twin, which did not grow and shares the steps
before the event. `placebo` defines which steps are placebos of a step. Training losses of steps at which two layers
were swapped (`growth.swapping`) are left out. Several events at one step are measured as one, because there is no
checkpoint between them.

Columns of `events`, one row for each step with events:
    step, event   optimizer updates done before the event, and a label of one or two words
    index         lowest index in the stack that the event changed; empty if it changed no layer
    loss_change, loss_change_low, loss_change_high, kl, flips, blocks, documents   of `at_event.StateComparison`, over
                  all held-out blocks that the run keeps; empty without a checkpoint before the event
    loss_before, loss_after  eval loss before and after the event, as training logged it
    window        steps on each side of the event that the columns below use; fewer if the next event is nearer
    reference     what the loss is compared with: the name of a twin, or `trend`
    spike, recovery_steps, is_recovered, excess_area, late_excess, noise   of `loss_response`; where `is_recovered` is
                  false, `recovery_steps` is the number of steps observed
    placebo_window  steps on each side, at most `window`, over which spike and area are compared with those of placebo
                  steps, each relative to its own trend: the longest with 20 placebo steps, or else the one with most
    lr_phase      phase of the learning rate in these steps, the same as at the placebo steps: of
                  `pli_train.core.learning_rate.phase`; empty where it changes within them: then there are no placebos
    spike_z, spike_p, excess_area_p   robust z of the spike, and p-values of spike and area, within `placebo_window`,
                  relative to placebo steps
    placebos      number of placebo steps
    min_p         1 ÷ (1 + placebos), the smallest possible p-value; empty without placebo steps

Columns of `layers`, one row for each step with events and each layer that existed before it:
    step, event, layer
    index         its index in the stack after the event
    layers_from_event  distance in layers from the nearest changed layer: positive above it, negative below it
    output_change, cka_distance, log_grad_norm_ratio, grad_cosine_distance   of `at_event.LayerChange`
    placebo_window  steps on each side over which its update rate is measured, within the window, with a checkpoint at
                  both ends: the longest with 20 placebo steps, or else the one with most
    relative_update_rate_before, relative_update_rate_after   of `layer_speeds`
    excess_log_update_rate  log(rate after ÷ rate before) minus its median at placebo steps, or log(rate after ÷ rate of
                  the twin): the layer moved exp(excess_log_update_rate) times as fast as expected
    excess_log_grad_norm  log of the median gradient norm logged in `placebo_window` steps after ÷ before, minus the
                  median of the same quantity at placebo steps
    reference     what `excess_log_update_rate` is relative to: `twin` or `placebo`
    lr_phase      as in `events`, for the steps of `placebo_window`
    output_change_z, cka_distance_z, log_grad_norm_ratio_z, grad_cosine_distance_z, excess_log_update_rate_z,
    excess_log_grad_norm_z   robust z relative to placebo steps. For the first four, the placebo values are the changes
                  over `placebo_window` steps of training without an event, and absolute values are compared;
                  `excess_log_update_rate_z` is relative to placebo steps even where the reference is a twin
    score         the largest of these z values
    p             share of this layer's placebo steps whose score is at least as high, the event counted among them
    placebos, min_p   as in `events`, for this layer
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
"""Maximum number of blocks of a given text on which the loss change is measured."""
BLOCKS = 8
"""Default number of blocks on which layers are compared, at an event and at its placebo steps alike."""
EVENTS = [col.STEP, col.EVENT, col.INDEX, *CHANGES, *loss_effect.COLUMNS]
LAYERS = [col.STEP, col.EVENT, *layer_effects.COLUMNS]


@dataclass(frozen=True)
class Disturbance:
    """The effects of a run's growth events.

    Attributes:
        events, layers: tables; their columns are described in this module's docstring.
        curves: step of an event → the loss after it, where enough losses were logged.
        notes: lines to print for the user.
        most: maximum number of placebo steps that an event was compared with.
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
    """Measure the effect of each growth event of a run.

    Args:
        run: a run with checkpoints before and after its events.
        twins: forks of the run that stopped growing; an event is compared with the twin forked at its step, if any.
        window: steps to use on each side; if None, half of the shortest interval without events, at most 200.
        at: steps without an event to measure as if they had one, instead of the run's own events.
        text: measure instant effects on blocks of this text instead of the held-out blocks that the run keeps.
        blocks: number of these blocks on which layers are compared; the loss change uses all of them.
        most: maximum number of placebo steps that an event is compared with.
        on_progress: called with (steps measured, steps in total), placebo steps included.

    Raises:
        BadInput: if the run has no checkpoint of a step, or a checkpoint cannot be read.
    """
    import pandas as pd

    context = EventContext(run, tuple(twins), window)
    for step in at:
        context.after(step)
        if step in context.events:
            raise BadInput(f"--at {step}: is the step of a growth event; give steps without one")
    labels = {step: ["no event"] for step in at} or by_step(run.lineage)
    sample, notes = _sample(run, text) if labels else (None, [f"{run.name} did not grow: there is no event to measure"])
    done, total = 0, len(labels) * (1 + most)

    def tick() -> None:
        nonlocal done
        done += 1
        on_progress(min(done, total - 1), total)

    losses, layers = Losses(context, most), Layers(context, most, sample, blocks, tick)
    curves, rows_of_events, rows_of_layers = {}, [], []
    for step, names in labels.items():
        row, after = {col.STEP: step, col.EVENT: " ".join(names)}, losses.after(step)
        known = step in context.mover.starts and (step not in context.events or context.before(step) is not None)
        seen = layers.instant(step) if known else None
        if after is not None:
            curves[step] = after
        if seen is not None and seen.loss_change != seen.loss_change:
            notes.append(f"{run.name}: the loss of the weights right before or after step {step} is not finite")
        changes = {column: getattr(seen, column) for column in CHANGES} if seen else {}
        lowest = min(context.touched(step), default=None)
        rows_of_events.append(row | {col.INDEX: lowest} | changes | losses.row(step, after))
        if known:
            rows_of_layers += [row | of_layer for of_layer in layers.rows(step)]
        else:
            notes.append(
                f"{run.name} has no checkpoints right before and after step {step}: its layers are not measured"
            )
        tick()
    on_progress(total, total)
    events, tables = pd.DataFrame(rows_of_events, columns=EVENTS), pd.DataFrame(rows_of_layers, columns=LAYERS)
    counts = dict.fromkeys((col.INDEX, col.BLOCKS, col.DOCUMENTS), "Int64")
    whole = dict.fromkeys((col.INDEX, col.LAYERS_FROM_EVENT, col.PLACEBO_WINDOW), "Int64")
    return Disturbance(events.astype(counts), tables.astype(whole), curves, notes + context.unlike, most)


def _sample(run: Run, text: Path | eval_tokens.Text | None) -> tuple[eval_tokens.Sample | None, list[str]]:
    """Return the blocks to evaluate on, and a note if there are none."""
    if text is None and (lack := eval_tokens.missing_blocks(run)):
        return None, [f"{run.name} {lack}: to measure the instant effects of events, give a text with --text FILE"]
    return eval_tokens.sample_of(run, text, None if text is None else OF_A_TEXT), []
