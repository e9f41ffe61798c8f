"""Packages with plugins, as pip would install them: a module and its `.dist-info`, in a folder of their own."""

import shutil
import sys
import tomllib

from tests.warm import ROOT

EXAMPLE = ROOT / "examples/plugin"


def installed(folder, package, source, version="1.0", **groups):
    """Write a package of one module, given its source and its entry points: group → {name: object}."""
    folder.mkdir(parents=True, exist_ok=True)
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    _describe(
        folder,
        package,
        version,
        {group: {n: f"{module}:{it}" for n, it in names.items()} for group, names in groups.items()},
    )
    return folder


def example(folder):
    """Install the example of the repository."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(EXAMPLE / "pli_example.py", folder)
    _describe(folder, project["name"], project["version"], project["entry-points"])
    return folder


def _describe(folder, package, version, groups):
    about = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [[f"[{group}]", *(f"{name} = {it}" for name, it in names.items())] for group, names in groups.items()]
    (about / "entry_points.txt").write_text("\n".join(line for group in lines for line in group) + "\n")


def on_path(monkeypatch, *folders):
    """Make packages importable in this process; what they import is forgotten when the test ends."""
    for folder in folders:
        monkeypatch.syspath_prepend(str(folder))
        for path in folder.glob("*.py"):
            monkeypatch.delitem(sys.modules, path.stem, raising=False)


def environment(*folders):
    """Return the environment of a command with these packages."""
    return {"PYTHONPATH": ":".join(map(str, (ROOT, *folders)))}
