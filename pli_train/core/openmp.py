"""Limit how long OpenMP threads spin while they wait.

torch runs an operation on several threads and waits for the slowest. By default, the other threads spin meanwhile
(libgomp: 300 000 iterations, several milliseconds). On a busy machine they take CPU time from the thread that they wait
for, and a step takes many times as long. Threads that sleep immediately (`OMP_WAIT_POLICY=PASSIVE`) cost 10 % of the
speed on an idle machine, because operations of small models take less time than sleeping and waking up. A tenth of the
default iterations costs nothing on an idle machine, with most of the gain on a busy one: see
`tests/benchmarks/bench_busy.py`.
"""

from __future__ import annotations

import os
import sys

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Environment variables that set how threads wait: of the OpenMP standard, libgomp, and Intel's and LLVM's runtimes."""
TURNS = 30_000
"""How many times a waiting thread polls before it sleeps."""


def wait_briefly() -> bool:
    """Limit the spinning of libgomp (used by torch from pip) in this process and its child processes.

    The runtime reads the environment once, when the first library that needs it is loaded: torch, scikit-learn or
    numba. So commands and `pli_train.train` call this first. It is not called on import, because a user's own process
    may run other work. If any of SETTINGS is set, nothing is changed. Runtimes of Intel and LLVM ignore this variable.

    Returns:
        Whether it affects torch in this process: False if torch is already loaded, or if one of SETTINGS is set.
    """
    if any(name in os.environ for name in SETTINGS):
        return False
    os.environ["GOMP_SPINCOUNT"] = str(TURNS)
    return "torch" not in sys.modules
