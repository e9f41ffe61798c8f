"""Runs that a test may damage, and a browser to read pages in."""

import json
import shutil
from pathlib import Path

import pytest

from pli_train.core.run_format import run_folder

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
    """Debian's browser, without a window."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    assert found, "these tests need Debian's chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


HOSTILE = "<script>alert(1)</script>\"'&amp;‮"


@pytest.fixture
def hostile_run(run_folder_of, tmp_path):
    """A run whose name, config and command try to break out of the page."""
    folder = Path(shutil.move(run_folder_of, tmp_path / HOSTILE.replace("/", "∕")))
    record = json.loads((folder / run_folder.RUN).read_text())
    record["config"]["description"] = HOSTILE
    record["command"] = ["pli-train", HOSTILE, "</script><!--"]
    record["corpus"]["about"] = f"<img src=x onerror=alert(1)> {HOSTILE}"
    (folder / run_folder.RUN).write_text(json.dumps(record))
    return folder


@pytest.fixture
def mine(runs, tmp_path):
    """A copy of a finished run that a test may change."""
    return Path(shutil.copytree(runs["gpt2"], tmp_path / "run"))
