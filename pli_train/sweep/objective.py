"""Read the result and the evaluations of a run from its files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

if TYPE_CHECKING:
    from pli_train.config.schema import RunConfig


@dataclass(frozen=True)
class Result:
    """The result of a finished run.

    Attributes:
        loss: eval loss at the end, in nats per prediction; over all held-out text if that was evaluated.
        curve: (FLOPs so far, eval loss on the sampled blocks, step) of each evaluation.
        steps, tokens, flops, seconds: amount of training.
    """

    loss: float
    curve: tuple[tuple[float, float, int], ...]
    steps: int
    tokens: int
    flops: int
    seconds: float


def is_finished(run: Path) -> bool:
    """Whether the last checkpoint of a run is complete."""
    return _last(run) is not None


def result(run: Path) -> Result:
    """Read the result of a finished run. Raises BadInput when it is not finished."""
    last = _last(run)
    if last is None:
        raise BadInput(f"{run}: is not finished")
    state = run_folder.read_json(last / run_folder.TRAINER_STATE)
    history = state["log_history"]
    curve = tuple((e["flops"], e["eval_loss"], int(e["step"])) for e in history if "eval_loss" in e and "flops" in e)
    full = [entry["eval_loss_full"] for entry in history if "eval_loss_full" in entry]
    counted = counts(state)
    loss = full[-1] if full else curve[-1][1]
    return Result(loss, curve, state["global_step"], counted["tokens"], counted["flops"], counted["seconds"])


def counts(state: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens, FLOPs and seconds of training so far, from the contents of a trainer_state.json."""
    counted: dict[str, Any] = next(iter(state["stateful_callbacks"].values()))
    return counted


def value(found: Result, objective: str, budget: float | None, run: Path) -> float:
    """Return the value that a study minimizes.

    Args:
        found: result of the run.
        objective: `flops` and `tokens`: final loss. `seconds`: loss after `budget` seconds of training, or the final
            loss if the run was shorter. `area`: mean loss over FLOPs from the first evaluation on.
        budget: FLOPs, tokens or seconds.
        run: run folder; its event files contain the time of each evaluation.
    """
    if objective == "area":
        return area(found.curve)
    if objective == "seconds" and budget is not None and found.seconds > budget:
        return loss_at_seconds(found, seconds_by_step(run), budget)
    return found.loss


def area(curve: tuple[tuple[float, float, int], ...]) -> float:
    """Return the mean loss over FLOPs by the trapezoidal rule; with one evaluation, its loss.

    >>> area(((0.0, 4.0, 0), (10.0, 2.0, 1), (20.0, 2.0, 2)))
    2.5
    """
    width = curve[-1][0] - curve[0][0]
    if not width:
        return curve[-1][1]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve)) / width


def loss_at_seconds(found: Result, clock: dict[int, float], budget: float) -> float:
    """Return the loss on the sampled blocks after `budget` seconds of training, linearly interpolated."""
    timed = [(clock[step], loss) for _, loss, step in found.curve if step in clock]
    before = [point for point in timed if point[0] <= budget]
    after = [point for point in timed if point[0] > budget]
    if not before or not after:
        return (before or after)[-1 if before else 0][1] if timed else found.loss
    (t0, l0), (t1, l1) = before[-1], after[0]
    return l0 + (l1 - l0) * (budget - t0) / (t1 - t0)


def seconds_by_step(run: Path) -> dict[int, float]:
    """Return step → seconds of training; the last value of a step that was trained twice."""
    return {0: 0.0} | dict(scalars(run, run_folder.SECONDS))


def evaluations(run: Path) -> list[tuple[int, float]]:
    """Return (step, eval loss) of each evaluation so far, also while the run is training."""
    return sorted(dict(scalars(run, run_folder.EVAL_LOSS)).items())


def scalars(run: Path, tag: str) -> list[tuple[int, float]]:
    """Return (step, value) of a scalar in a run's event files, in the order written."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found = []
    for path in sorted(run.glob(run_folder.SCALARS), key=run_folder.order_of):
        for event in LegacyEventFileLoader(str(path)).Load():
            found += [(event.step, each.simple_value) for each in event.summary.value if each.tag == tag]
    return found


def recovery_windows(run: Path, config: RunConfig) -> list[tuple[int, int]]:
    """Return the recovery window of each event so far: (step of the event, last step that a pruner ignores).

    A window lasts two evaluation intervals, or as long as rewarming of the learning rate or freezing of older parts
    lasts, whichever is longest.
    """
    path = run / run_folder.LINEAGE
    events: list[dict[str, Any]] = run_folder.read_json(path).get("events", []) if path.is_file() else []
    growth = config.growth
    length = recovery_steps(config.train.eval_every, growth.learning_rate, growth.rewarm_steps, growth.freeze_steps)
    return [(int(event["step"]), int(event["step"]) + length) for event in events]


def recovery_steps(eval_every: int, policy: str, rewarm_steps: int, freeze_steps: int) -> int:
    """Return the length of the recovery window of an event with this learning-rate policy."""
    return max(2 * eval_every, rewarm_steps if policy.startswith("rewarm") else 0, freeze_steps)


def _last(run: Path) -> Path | None:
    """Return the last checkpoint of a run; None if it is missing or incomplete."""
    if not (run / run_folder.RUN).is_file():
        return None
    total = run_folder.read_json(run / run_folder.RUN).get("total_steps")
    last = run / str(run_folder.CheckpointName(total)) if isinstance(total, int) else run
    return last if last != run and last.is_dir() and run_folder.flaw(last) is None else None
