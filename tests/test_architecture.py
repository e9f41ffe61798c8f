"""The house's rules: who may import whom, and what a start must not load."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_imports_go_one_way():
    """The contracts stand in pyproject.toml under [tool.importlinter]."""
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


HEAVY = {"torch", "transformers", "plotly", "pandas", "tensorboard", "umap", "numpy", "accelerate"}


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import pli_train.cli", HEAVY | {"pydantic_core", "rich"}),
        ("import pli_analysis.cli", HEAVY | {"pydantic_core", "rich"}),
        ("import pli_train.core.lineage", HEAVY | {"pydantic_core", "rich", "typer"}),
        ("import pli_train.core.anatomy", HEAVY),
        ("import pli_train.config.loading; pli_train.config.loading.load()", HEAVY),
        (
            "import pli_analysis.runs.run, pli_analysis.metrics.drift.drift, pli_analysis.metrics.grad_norms.logged",
            {"torch", "transformers", "plotly"},
        ),
        ("import pli_analysis.report.content", {"torch", "transformers"}),
    ],
)
def test_a_start_loads_only_what_it_needs(code, never):
    ask = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not never & set(loaded.stdout.split())


def test_the_tree_in_the_architecture_is_the_tree():
    """Every module and folder of the two packages has its line in ARCHITECTURE.md, and no line lacks a file."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = text.split("```")[1]
    named = {line.split()[0].strip("/") for line in tree.splitlines() if line.strip() and not line.startswith("#")}
    for package in ("pli_train", "pli_analysis"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in {".py", ".html", ".css", ".js"} and path.name != "__init__.py":
                assert path.name in named, f"{path} has no line in ARCHITECTURE.md"
    files = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts and ".git" not in path.parts}
    assert {name for name in named if "*" not in name and "…" not in name} <= files
