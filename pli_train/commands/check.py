"""Measure what each growth event does to logits, loss and gradient at birth, without training.

Two models, one just before the event and one just after it, read the same held-out blocks in eval mode (no dropout) and
float32, so that rounding errors are not mistaken for effects of growth. Events are applied in the order of the run and
with its seeds, without training between them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pli_train.core.errors import BadInput
from pli_train.core.lineage import Lineage
from pli_train.core.run_format import run_folder
from pli_train.data import corpus
from pli_train.data.held_out import HeldOut
from pli_train.data.objective import IGNORED, Batch, loss_sum
from pli_train.growth import grower
from pli_train.models import build as models
from pli_train.training import launch
from pli_train.training import warm_start as parents
from pli_train.training.devices import make_accelerator
from pli_train.training.progress import NullReporter
from pli_train.training.run_plan import RunPlan
from pli_train.training.state import TrainingState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pli_train.config.schema import RunConfig

NO_EVENT = "growth.schedule: has no event, so there is nothing to check"
ROWS = 1024
"""Positions compared at a time, as a float64 copy of all logits of a large vocabulary may not fit into memory."""


@dataclass(frozen=True)
class Change:
    """The difference between two models' logits z⁻ and z⁺; p is their softmax.

    Attributes:
        positions: number of positions compared.
        max_logit: max |z⁺ − z⁻| over positions and vocabulary.
        kl: mean over positions of KL(p⁻‖p⁺) = Σ_v p⁻_v (log p⁻_v − log p⁺_v), in nats.
        flips: share of positions where argmax z⁻ ≠ argmax z⁺.
    """

    positions: int
    max_logit: float
    kl: float
    flips: float


def at_birth(before: Tensor, after: Tensor) -> Change:
    """Compare the logits of two models at the same positions, with sums in float64.

    Args:
        before, after: logits, (positions, vocabulary).

    >>> at_birth(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])).flips
    1.0
    """
    largest, kl, flips = 0.0, 0.0, 0
    for old, new in zip(before.double().split(ROWS), after.double().split(ROWS), strict=True):
        largest = max(largest, float((new - old).abs().max()))
        p, q = old.log_softmax(-1), new.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum())
        flips += int((old.argmax(-1) != new.argmax(-1)).sum())
    return Change(len(before), largest, kl / len(before), flips / len(before))


def over_batches(changes: Sequence[Change]) -> Change:
    """Combine the changes of several batches, weighted by their positions."""
    total = sum(change.positions for change in changes)
    kl = sum(change.kl * change.positions for change in changes) / total
    flips = sum(change.flips * change.positions for change in changes) / total
    return Change(total, max(change.max_logit for change in changes), kl, flips)


def loss_and_gradient(model: nn.Module, batches: Sequence[Batch]) -> tuple[float, float]:
    """Return the mean loss over all targets, in nats, and the global L2 norm of its gradient, unclipped.

    The norm is √Σ‖∂L/∂θ‖² over the parameters, with tied parameters counted once. Gradients are cleared afterwards.
    """
    targets = max(sum(batch.targets for batch in batches), 1)
    loss = 0.0
    for batch in batches:
        part = loss_sum(model, batch) / targets
        part.backward()
        loss += float(part.detach())
    squares = [float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return loss, math.sqrt(sum(squares))


@dataclass(frozen=True)
class Rehearsal:
    """A run before an event, to be grown by `check`.

    Attributes:
        plan: the plan of the run.
        state: its model and lineage, before the next event.
        held_out: the held-out blocks.
        device: where the model is.
    """

    plan: RunPlan
    state: TrainingState
    held_out: HeldOut
    device: torch.device


def prepare(config: RunConfig, origin: Path | None = None, show: NullReporter | None = None) -> Rehearsal:
    """Prepare a run before its first event, or a checkpoint before its next event. Nothing is written.

    Args:
        config: config of the run.
        origin: a checkpoint to start from, or a run, for its last complete checkpoint with events still to come.
        show: reporter of slow steps.

    Raises:
        BadInput: if there is no event to check, or the checkpoint does not match the schedule or the corpus.
    """
    show = show or NullReporter()
    config, _ = parents.resolve_parent(config, show.say)
    if not config.growth.schedule:  # said before the corpus is read, which may take minutes
        raise BadInput(NO_EVENT)
    if origin is not None:
        run_folder.require_run(_run_of(origin))
    train = config.train.model_copy(update={"precision": "fp32"})
    config = config.model_copy(update={"train": train})
    text = corpus.load(config.data, config.tokenizer, show.say)
    accelerator = make_accelerator(config)
    plan = RunPlan.make(config, text, accelerator.num_processes)
    if not plan.events:
        raise BadInput(NO_EVENT)
    state = launch.state_at_start(plan, accelerator)
    if origin is not None:
        source = _starting_checkpoint(plan, state.lineage, origin)
        state = launch.state_of(plan, accelerator, source)
        if mistake := _mismatch(state.lineage, plan, plan.start.lineage()):
            raise BadInput(f"--from {source}: {mistake}")
        show.say(f"model: {source}")
    held_out = HeldOut(text, train.block_size, train.eval_blocks, plan.objective, config.seed)
    return Rehearsal(plan, state, held_out, accelerator.device)


def _run_of(origin: Path) -> Path:
    """Return the run folder that `origin` is, or lies in."""
    return origin if (origin / run_folder.RUN).is_file() else origin.parent


def _starting_checkpoint(plan: RunPlan, start: Lineage, origin: Path) -> Path:
    """Return the checkpoint selected by `origin`. Raises BadInput if there is none, or its corpus differs."""
    run = _run_of(origin)
    record = run_folder.read_record(run_folder.require_run(run))
    if record.get("corpus", {}).get("fingerprint") != plan.corpus.fingerprint:
        raise BadInput(f"--from {origin}: its corpus or tokenizer differs from this config's")
    return _before_an_event(plan, start, run) if run == origin else origin


def _before_an_event(plan: RunPlan, start: Lineage, run: Path) -> Path:
    for _, path in reversed(run_folder.checkpoints(run)):
        if run_folder.flaw(path):
            continue
        lineage = Lineage.read(path / run_folder.LINEAGE)
        if _mismatch(lineage, plan, start) is None:
            return path
    raise BadInput(f"--from {run}: has no whole checkpoint before an event of this schedule")


def _mismatch(lineage: Lineage, plan: RunPlan, start: Lineage) -> str | None:
    """Return why a schedule cannot continue from a lineage, or None."""
    done = len(lineage.events)
    if done >= len(plan.events):
        return f"all {len(plan.events)} events of the schedule are done"
    expected = plan.events[done - 1].lineage if done else start
    if (lineage.stack, lineage.shapes()) != (expected.stack, expected.shapes()):
        return f"after {done} events its layers ({lineage}) or their sizes differ from this config's ({expected})"
    return None


def check(run: Rehearsal, batches: int) -> Iterator[dict[str, Any]]:
    """Apply the remaining events in order; yield a row after each.

    Args:
        run: result of `prepare`; its model and lineage are modified.
        batches: number of batches of `train.batch_size` held-out blocks to read.

    Yields:
        event (its number), step (None if it waits for a plateau), what; max_dlogit, kl (nats) and flip_rate as in
        Change; loss_before and loss_after (nats), grad_before and grad_after (global L2 norms), parameters_before and
        parameters_after. Logits are compared where both models predict: at masked positions, at positions with a next
        token, or for images.
    """
    state, lineage = run.state, run.state.lineage
    model = state.model.bare.eval()
    reads = _batches(run, batches)
    loss, gradient = loss_and_gradient(model, reads)
    for planned in run.plan.events[len(lineage.events) :]:
        number = len(lineage.events) + 1
        before, old = copy.deepcopy(model), reads
        # The lineage's own step, because a checkpoint may be later than the step of the schedule's next event.
        step = lineage.events[-1].step if lineage.events else 0
        grower.apply_event(planned.event, step, model, state.anatomy, lineage, None, run.plan.config.seed)
        model.eval()
        reads = _batches(run, batches)
        change = over_batches([_compared(before, model, *pair) for pair in zip(old, reads, strict=True)])
        loss_after, gradient_after = loss_and_gradient(model, reads)
        yield {
            "event": number,
            "step": planned.step,
            "what": f"{planned.event} {planned.outcome}",
            "max_dlogit": change.max_logit,
            "kl": change.kl,
            "flip_rate": change.flips,
            "loss_before": loss,
            "loss_after": loss_after,
            "grad_before": gradient,
            "grad_after": gradient_after,
            "parameters_before": models.count_parameters(before),
            "parameters_after": models.count_parameters(model),
        }
        loss, gradient = loss_after, gradient_after


@torch.no_grad()
def _compared(before: nn.Module, after: nn.Module, old: Batch, new: Batch) -> Change:
    # A longer context reshapes the same tokens, so flattened positions still correspond.
    both = (old.labels.flatten() != IGNORED) & (new.labels.flatten() != IGNORED)
    outputs = [model(**batch.arguments).logits for model, batch in ((before, old), (after, new))]
    return at_birth(*(logits.flatten(0, -2)[both] for logits in outputs))


def _batches(run: Rehearsal, count: int) -> list[Batch]:
    """Return held-out blocks at the current context, in batches with equal numbers of tokens."""
    size, context = run.plan.config.train.batch_size, run.state.context
    locations = run.held_out.locations[: count * size]
    wholes = (run.held_out.batch(locations[first : first + size], context) for first in range(0, len(locations), size))
    return [whole.rows(0, len(whole.inputs), run.device) for whole in wholes]
