"""Rules of the architecture: allowed imports, modules that start-up must not load, and the module tree."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_imports_go_one_way():
    """The contracts are in pyproject.toml under [tool.importlinter]."""
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def imported(path, known):
    """The modules of ours that a file imports, those within functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else node.module


def test_no_module_imports_itself_by_way_of_others():
    files = {}
    for path in (path for package in ("pli_train", "pli_analysis") for path in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        files[name.removesuffix(".__init__")] = path
    graph = {name: set(imported(path, files)) - {name} for name, path in files.items()}
    assert len(graph) > 200 and sum(map(len, graph.values())) > 1000
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the modules


COMPILED = {"torch", "numba", "sklearn", "umap"}
HEAVY = COMPILED | {"transformers", "plotly", "pandas", "tensorboard", "numpy", "scipy", "accelerate"}


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import pli_train.cli", HEAVY | {"pydantic_core", "rich"}),
        ("import pli_analysis.cli", HEAVY | {"pydantic_core", "rich"}),
        ("import pli_train.core.lineage", HEAVY | {"pydantic_core", "rich", "typer"}),
        ("import pli_train.core.anatomy", HEAVY),
        ("import pli_train.config.loading; pli_train.config.loading.load()", HEAVY),
        (
            "import pli_analysis.api, pli_analysis.metrics.drift.drift, pli_analysis.metrics.grad_norms.logged",
            COMPILED | {"transformers", "plotly"},
        ),
        ("import pli_analysis.report.content", COMPILED | {"transformers"}),
        ("import pli_analysis.commands.scalars, pli_analysis.scalars.reading", COMPILED | {"transformers", "plotly"}),
    ],
)
def test_a_start_loads_only_what_it_needs(code, never):
    ask = f"{code}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not never & set(loaded.stdout.split())


def modules(folder):
    """Yield name and first docstring line of each module in a package, in the order of ARCHITECTURE.md."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if (path / "__init__.py").exists():
            yield f"{path.name}/", first_line(path / "__init__.py")
            yield from modules(path)
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield path.name, first_line(path)


def first_line(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).partition("\n")[0]


def test_the_tree_in_the_architecture_is_the_tree():
    """Every module is listed in order, and described by the first line of its docstring."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## The tree")[2]
    lines = [line.strip().partition(" ") for line in text.split("```")[1].splitlines() if line.strip()]
    listed = [(name, about.strip()) for name, _, about in lines if name != "presets/"]
    for package in ("pli_train", "pli_analysis"):
        expected = [(f"{package}/", first_line(ROOT / package / "__init__.py")), *modules(ROOT / package)]
        start = listed.index(expected[0])
        assert listed[start : start + len(expected)] == expected
