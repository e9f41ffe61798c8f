"""The notebook of examples/ runs from top to bottom, and its file has no outputs."""

import json
import shutil
from pathlib import Path

import plotly.graph_objects as go
import pytest

ROOT = Path(__file__).parent.parent
CELLS = json.loads((ROOT / "examples/growth.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_file_has_no_outputs():
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if cell["cell_type"] == "code"
    )


@pytest.mark.slow
def test_every_cell_runs_and_draws(tmp_path, monkeypatch):
    """In the folder of the notebook, as Jupyter runs it; the last expression of a cell is what Jupyter shows."""
    for folder in ("docs", "examples", "runs"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "docs/example.toml", tmp_path / "docs")
    monkeypatch.chdir(tmp_path / "examples")
    names, shown = {}, []
    for code in CODE:
        *statements, last = code.splitlines()
        exec("\n".join(statements), names)
        if last.startswith(("run.", "drift", "events")):
            shown.append(eval(last, names))
        else:
            exec(last, names)
    figures = [each for each in shown if isinstance(each, go.Figure)]
    assert len(figures) == 4 and all(len(figure.data) for figure in figures)
    assert len(shown) - len(figures) == 3 and all(len(each._repr_html_()) for each in shown)
