"""Limit how long OpenMP threads spin while they wait.

torch runs an operation on several threads and waits for the slowest after each. By default the others spin meanwhile
(libgomp: 300 000 turns, milliseconds): on a busy machine they take the cores from the very thread that they wait for,
and a step takes many times as long. Threads that sleep at once (`OMP_WAIT_POLICY=PASSIVE`) cost a tenth of the speed on
a quiet machine, as operations on small models are shorter than falling asleep and waking up. A tenth of the default
number of turns costs nothing there, and has most of the gain on a busy one: see `tests/benchmarks/bench_busy.py`.
"""

from __future__ import annotations

import os
import sys

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Environment variables that say how threads wait: the standard's, libgomp's, and those of Intel's and LLVM's."""
TURNS = 30_000
"""How often a waiting thread looks for work before it sleeps."""


def wait_briefly() -> bool:
    """Let threads of libgomp, which pip's torch uses, spin briefly, in this process and those it starts.

    A runtime reads its environment once, when the first library that needs it is loaded: torch, scikit-learn, numba.
    So this is called first of all where a process does nothing but our work (commands, `pli_train.train`), and not on
    import: what else runs in a user's own process is not ours to change. If any of SETTINGS is set, nothing is changed.
    The runtimes of Intel and LLVM do not read this variable.

    Returns:
        Whether it has an effect on torch here: False where it is loaded already, or the environment says how to wait.
    """
    if any(name in os.environ for name in SETTINGS):
        return False
    os.environ["GOMP_SPINCOUNT"] = str(TURNS)
    return "torch" not in sys.modules
