"""Python API: open a run and measure it, or read a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pli_analysis.runs.opening import open_run

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.disturbance.disturbance import Disturbance
    from pli_analysis.metrics.sweep.results import Results
    from pli_analysis.runs.run import Run

__all__ = [
    "ablation",
    "attention",
    "attribution",
    "conductance",
    "disturbance",
    "drift",
    "explain",
    "influence",
    "lens",
    "open_run",
    "probe",
    "pruning",
    "sweep",
]


def ablation(run: Run, text: Path | None = None, blocks: int = 64, at: int | None = None) -> pd.DataFrame:
    """Measure how the loss changes without each head, FFN and layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.ablation.ablation`.
    """
    from pli_analysis.metrics.ablation import ablation as metric

    return metric.ablation(run, text, blocks, at)


def attention(run: Run, text: Path | None = None, blocks: int = 64, at: int | None = None) -> pd.DataFrame:
    """Measure where each head attends.

    Arguments, columns and errors are those of `pli_analysis.metrics.attention.attention`.
    """
    from pli_analysis.metrics import attention as metric

    return metric.attention(run, text, blocks, at)


def attribution(run: Run, text: Path | None = None, blocks: int = 64, at: int | None = None) -> pd.DataFrame:
    """Measure how much each layer, head and FFN adds to the logits of the right tokens.

    Arguments, columns and errors are those of `pli_analysis.metrics.attribution.attribution`.
    """
    from pli_analysis.metrics.attribution import attribution as metric

    return metric.attribution(run, text, blocks, at)


def conductance(run: Run, text: Path | None = None, blocks: int = 64, at: int | None = None) -> pd.DataFrame:
    """Measure how much of the effect of the text on the predictions goes through the update of each layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.attribution.conductance.conductance`.
    """
    from pli_analysis.metrics.attribution import conductance as metric

    return metric.conductance(run, text, blocks, at)


def drift(
    run: Run, of: str = "layer", *, gauge: bool = False, spectral: bool = False, threads: int = 1
) -> pd.DataFrame:
    """Measure the distance of each part from its birth weights.

    Arguments, columns and errors are those of `pli_analysis.metrics.drift.drift.drift`.
    """
    from pli_analysis.metrics.drift import drift as metric

    return metric.drift(run, of, gauge=gauge, spectral=spectral, threads=threads)


def disturbance(run: Run, window: int | None = None, twins: Sequence[Run] | None = None) -> Disturbance:
    """Measure the effect of each growth event: see `pli_analysis.metrics.disturbance.disturbance`.

    Args:
        run: a run that grew.
        window: steps to use on each side of an event; None for a default from the intervals between events.
        twins: forks of the run that did not grow; None for those in the same folder.

    Raises:
        BadInput: if a checkpoint cannot be read.
    """
    from pli_analysis.metrics.disturbance import disturbance as metric
    from pli_analysis.metrics.disturbance import event_context

    return metric.disturbance(run, event_context.twins_beside(run) if twins is None else twins, window)


def explain(
    runs: Sequence[Run], scratch: Sequence[Run] = (), text: Path | None = None, blocks: int = 64
) -> pd.DataFrame:
    """Test over runs whether inserted layers differ from layers of the same age or depth.

    Arguments and errors are those of `pli_analysis.metrics.explain.explain.contrasts`, columns those of `summary`.
    """
    from pli_analysis.metrics.explain import explain as metric

    return metric.summary(metric.contrasts(runs, scratch, text, blocks))


def influence(run: Run, text: Path | None = None, blocks: int = 64, checkpoints: int = 8) -> pd.DataFrame:
    """Measure how much each sampled training block helped the held-out loss, by layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.influence`.
    """
    from pli_analysis.metrics import influence as metric

    return metric.influence(run, text, blocks, checkpoints)


def lens(run: Run, text: Path | None = None, blocks: int = 64, at: int | None = None) -> pd.DataFrame:
    """Measure what the model would predict from the output of each layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.lens`.
    """
    from pli_analysis.metrics import lens as metric

    return metric.lens(run, text, blocks, at)


def probe(run: Run, text: Path | None = None, blocks: int = 64, at: int | None = None) -> pd.DataFrame:
    """Measure which properties of a token a linear probe reads from the output of each layer.

    Arguments, columns and errors are those of `pli_analysis.metrics.probing.probe.probe`.
    """
    from pli_analysis.metrics.probing import probe as metric

    return metric.probe(run, text, blocks, at)


def pruning(
    run: Run, text: Path | None = None, blocks: int = 64, at: int | None = None, checkpoints: int = 1
) -> pd.DataFrame:
    """Measure the loss over the number of masked heads.

    Arguments, columns and errors are those of `pli_analysis.metrics.ablation.pruning`.
    """
    from pli_analysis.metrics.ablation import pruning as metric

    return metric.pruning(run, text, blocks, at, checkpoints=checkpoints)


def sweep(study: str | Path) -> Results:
    """Read a study of `pli-train sweep` and compute its results: see `pli_analysis.metrics.sweep.results.Results`.

    Args:
        study: study folder. The study may still be running, and its run folders may be gone.

    Raises:
        BadInput: if the folder is not a study, its files are damaged, or it has no trials yet.
    """
    from pli_analysis.metrics.sweep.results import results

    return results(Path(study))
