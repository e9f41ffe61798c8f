"""Runs that a test may damage, and a browser to read pages in."""

import json
import shutil
from pathlib import Path

import pytest

from pli_train.core.run_format import run_folder
from tests.in_browser import until
from tests.sweeping import Training, study_of, write_config

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


@pytest.fixture
def opened(chromium):
    """Open a page; give it with all that it said on the console and asked of the network."""
    contexts = []

    def open_page(path, width=1200, scheme="light"):
        context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, offline=True)
        context.set_default_timeout(120_000)  # a busy machine is no failure
        contexts.append(context)
        tab, outputs, asked = context.new_page(), [], []
        tab.on("console", lambda message: outputs.append(message.text))
        tab.on("pageerror", lambda error: outputs.append(str(error)))
        tab.on("dialog", lambda dialog: (outputs.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(Path(path).as_uri())
        until(tab, "[...document.querySelectorAll('.drawing')].every(d => d.querySelector('.main-svg'))")
        return tab, outputs, asked

    yield open_page
    for context in contexts:
        context.close()


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


SEARCH = {
    "space": {
        "growth.initializer": ["random", "clone", "clone-noise"],
        "growth.noise": {"low": 0.01, "high": 0.5, "log": True, "when": {"growth.initializer": ["clone-noise"]}},
        "schedule": {"position": ["start", "end"], "events": 2, "first": {"low": 0.05, "high": 0.4}, "last": 0.6},
    }
}


@pytest.fixture(scope="session")
def mini_config(corpus, once):
    """The config file of a run that grows from 1 to 3 layers in 12 steps."""
    return str(once("mini.toml", lambda path: write_config(path, corpus)))


@pytest.fixture(scope="session")
def searched(mini_config, once):
    """A finished search of eight growth and eight baseline trials, with three seeds confirmed. Not to be changed."""
    search = {"base": mini_config, **SEARCH}
    return once("study", lambda folder: study_of(search, folder, trials=8, confirm=3, sampler="random"))


@pytest.fixture
def searched_copy(searched, tmp_path):
    """A copy of a finished search that a test may change."""
    return Path(shutil.copytree(searched, tmp_path / "study"))


@pytest.fixture(scope="session")
def pruned(mini_config, tmp_path_factory):
    """A finished grid of three trials without growth, two of them pruned. Tests must not change it."""
    from pli_train.sweep import coordinator, space_reading

    settings = ["growth.schedule=''", "model.initial_layers=2"]
    found = space_reading.from_grid(mini_config, ["optim.lr=1e-2,1e-7,2e-7"], 1, settings)
    folder = tmp_path_factory.mktemp("pruned") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator, "PRUNE_EVERY", 0.0)
        return study_of(found, folder, launcher=Training(), pruner="halving", baseline=False)
