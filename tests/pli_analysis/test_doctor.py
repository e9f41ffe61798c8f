"""What a machine has and lacks is told in a table, with what to do."""

import json
import shutil
import types
from importlib import metadata

import pytest

from pli_analysis import machine
from tests.commands import call


def test_the_table_names_every_library_with_its_version():
    done = call("pli-analyze", "doctor", "-f", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    for name in ("torch", "numpy", "safetensors", "pyarrow"):
        assert rows[name]["found"] == metadata.version(name) and rows[name]["state"] == "ok"
    assert "pytest" not in rows, "what development needs is nobody's business"
    assert "GB free" in rows["cache"]["found"] and "CPU cores" in rows["devices"]["found"]


def test_what_is_missing_is_reported_with_what_needs_it(monkeypatch):
    there = metadata.version

    def gone(name):
        if name in ("numpy", "pyarrow"):
            raise metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(metadata, "version", gone)
    found = {finding.what: finding for finding in machine.check()}
    assert (found["numpy"].state, found["pyarrow"].state) == ("missing", "optional")
    assert found["pyarrow"].do == "pip install 'pli[parquet]'" and ".parquet" in found["pyarrow"].use
    assert found["numpy"].do.startswith("pip install 'numpy>=")
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == "torch" else there(name))
    assert {finding.what: finding.state for finding in machine.check()}["torch"] == "missing"


@pytest.mark.parametrize(("free", "state"), [(0, "optional"), (2**40, "ok")])
def test_a_full_disk_under_the_cache_is_reported(monkeypatch, tmp_path, free, state):
    monkeypatch.setenv("PLI_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(total=2**41, used=0, free=free))
    assert {finding.what: finding.state for finding in machine.check()}["cache"] == state
