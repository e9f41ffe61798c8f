"""Read training runs, and measure what growth did to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pli_analysis.api import (
        AnalyzedRun,
        Metric,
        Table,
        ablation,
        attention,
        attribution,
        compare,
        conductance,
        disturbance,
        drift,
        embed,
        explain,
        grad_norms,
        influence,
        lens,
        lineage,
        measure,
        neurons,
        open,
        open_run,
        probe,
        pruning,
        similarity,
        sweep,
    )
    from pli_analysis.inference.devices import use_device

__all__ = [
    "AnalyzedRun",
    "Metric",
    "Table",
    "ablation",
    "attention",
    "attribution",
    "compare",
    "conductance",
    "disturbance",
    "drift",
    "embed",
    "explain",
    "grad_norms",
    "influence",
    "lens",
    "lineage",
    "measure",
    "neurons",
    "open",
    "open_run",
    "probe",
    "pruning",
    "similarity",
    "sweep",
    "use_device",
]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `--help` loads no heavy libraries.
    if name == "use_device":
        from pli_analysis.inference import devices

        return devices.use_device
    if name in __all__:
        from pli_analysis import api

        return getattr(api, name)
    raise AttributeError(f"module 'pli_analysis' has no attribute '{name}'")
