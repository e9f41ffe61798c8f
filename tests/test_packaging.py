"""The wheel and the source distribution have every file of both packages."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pli_train", "pli_analysis")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with both, built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "dist").mkdir()
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    return source / "dist"


def files_of_packages():
    """Return every file in both packages except caches, as paths relative to the root."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_has_every_file_of_the_packages_and_no_other(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = files_of_packages()
    assert {Path(name).suffix for name in wanted} >= {".toml", ".md", ".html", ".css", ".js", ".typed", ".py"}
    assert held == wanted


def test_the_source_distribution_has_every_file_of_the_packages(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    assert held >= files_of_packages() | {"pyproject.toml", "README.md", "LICENSE"}


def test_the_wheel_says_what_pyproject_says(built):
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(wheel.read(name).decode())
    expected = ("pli", stated["version"], stated["description"])
    assert (metadata["Name"], metadata["Version"], metadata["Summary"]) == expected
    assert metadata["Keywords"].split(",") == stated["keywords"]
