"""How OpenMP's threads wait: torch's runtime is asked, in a fresh process, what it was told when it was loaded."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pli_train.core import openmp
from tests.warm import ROOT

STARTS = {
    "pli-train": "import sys; sys.argv = ['', 'presets']; from pli_train.cli import main; main()",
    "pli-analyze": "import sys; sys.argv = ['', 'drift', 'nowhere']; from pli_analysis.cli import main; main()",
    "train()": "from pli_train import train; train(model='nowhere', out='x')",
    "an import": "import pli_train.api",
}
"""What begins a process of ours. None does any work, so that torch is loaded by one alone."""


def spins(start, **environment):
    """How often the threads of each libgomp that is loaded look for work before they sleep: its own words."""
    own = {name: value for name, value in os.environ.items() if name not in openmp.SETTINGS}
    environment = {**own, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose", **environment}
    runtime = next(Path(importlib.util.find_spec("torch").origin).parent.glob("lib/libgomp*"), None)
    if runtime is None:
        pytest.skip("torch's OpenMP is not libgomp")
    # What begins may have loaded torch, and this with it; if not, it is loaded now, which takes less long.
    code = f"import atexit, ctypes; atexit.register(lambda: ctypes.CDLL({str(runtime)!r})); {start}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    found = [int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)]
    assert found
    return found


@pytest.mark.parametrize("start", ["pli-train", "pli-analyze", "train()"])
def test_threads_spin_briefly_while_they_wait(start):
    assert set(spins(STARTS[start])) == {openmp.TURNS}


def test_an_import_leaves_the_process_as_it_is():
    assert openmp.TURNS not in spins(STARTS["an import"])


@pytest.mark.parametrize("own", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "12345"}])
def test_a_setting_of_the_users_own_stays(own):
    assert openmp.TURNS not in spins(STARTS["pli-train"], **own)


def test_it_says_so_when_torch_is_loaded_already(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    import torch  # noqa: F401

    assert not openmp.wait_briefly()
    assert os.environ == {"GOMP_SPINCOUNT": str(openmp.TURNS)}  # for processes that are started from here
