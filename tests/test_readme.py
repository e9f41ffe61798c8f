"""Run the Python code of the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=[f"block-{number}" for number in range(len(BLOCKS))])
def test_a_python_block_of_the_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/x/lineage.json").is_file() or done.stdout.split() == ["a", "b", "c"]


def test_there_are_blocks_to_run():
    assert len(BLOCKS) == 2
