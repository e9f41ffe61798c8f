"""OpenMP threads that sleep while they wait, so that training shares its cores with other programs.

torch runs an operation on several threads and waits for the slowest after each. By default the others spin meanwhile
(libgomp: for milliseconds): on a machine that is busy they take the cores from the very thread that they wait for, and
a step takes ten times as long. Asleep, they leave the cores to whoever has work.
"""

from __future__ import annotations

import os
import sys

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Environment variables that say how threads wait: the standard's, libgomp's, and those of Intel's and LLVM's."""


def wait_passively() -> bool:
    """Let OpenMP's threads sleep while they wait, in this process and those it starts.

    A runtime reads its environment once, when the first library that needs it is loaded: torch, scikit-learn, numba.
    So this is called first of all where a process does nothing but our work (commands, `pli_train.train`), and not on
    import: what is in one's own process else is not ours to settle. A variable that is set already stays as it is.

    Returns:
        Whether it has an effect on torch here: False where it is loaded already, or the environment says how to wait.
    """
    if any(name in os.environ for name in SETTINGS):
        return False
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return "torch" not in sys.modules
