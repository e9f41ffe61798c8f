"""The page as a person opens it: offline, in Chromium, light and dark, wide and narrow."""

import shutil
from pathlib import Path

import pytest

from pli_analysis.report import content, page
from pli_analysis.run import Run
from tests.pli_analysis.test_report import hostile_run  # noqa: F401  (a fixture)

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium():
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
        contexts.append(context)
        tab, heard, asked = context.new_page(), [], []
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("dialog", lambda dialog: (heard.append("dialog"), dialog.dismiss()))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(Path(path).as_uri())
        tab.wait_for_function("document.querySelectorAll('.drawing .main-svg').length >= 6")
        return tab, heard, asked

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def report(runs, family, tmp_path):
    path = tmp_path / "report.html"
    page.write(content.tell(Run.open(runs[family])), path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_opens_offline_without_a_complaint(opened, report, width, scheme):
    tab, heard, asked = opened(report, width, scheme)
    assert heard == []
    assert asked == [report.as_uri()]
    assert tab.locator("figure").count() == 7
    for drawing in tab.locator(".drawing").all():
        assert drawing.get_attribute("aria-label")
        assert drawing.locator(".main-svg").first.bounding_box()["width"] > 200
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page scrolls sideways"
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 3 * 128) == (scheme == "dark")


def test_the_axis_of_loss_switches_and_takes_the_events_along(opened, report, runs, family):
    tab, heard, _ = opened(report)
    drawn = "document.querySelector('#loss .drawing').data"
    for button, axis in (("tokens", "tokens"), ("FLOPs", "flops"), ("seconds of training", "seconds")):
        tab.locator("figure#loss, section#loss figure").first.get_by_role("button", name=button, exact=True).click()
        xs, kept = tab.evaluate(f"[{drawn}.map(t => [...t.x]), {drawn}.map(t => t.meta['{axis}'])]")
        assert xs == kept
    scalars = Run.open(runs[family]).scalars
    assert xs[2][::3] == pytest.approx([scalars.values["progress/seconds"][step][1] for step in (3, 6, 9)], rel=1e-4)
    assert heard == []


def test_the_theme_button_repaints_the_figures(opened, report):
    tab, heard, _ = opened(report)
    ink = "document.querySelector('#drift-map .drawing')._fullLayout.font.color"
    before = tab.evaluate(ink)
    tab.locator("#theme").press("Enter")
    assert tab.evaluate(ink) != before
    assert heard == []


def test_the_csv_button_gives_the_table(opened, report):
    tab, _, _ = opened(report)
    tab.locator("#drift-map summary").press("Enter")
    with tab.expect_download() as download:
        tab.locator("#drift-map .download").click()
    head, *rows = Path(download.value.path()).read_text().splitlines()
    assert head.split(",") == tab.locator("#drift-map thead th").all_inner_texts()
    assert len(rows) == tab.locator("#drift-map tbody tr").count() > 0


def test_a_hostile_run_executes_nothing(opened, hostile_run, tmp_path):  # noqa: F811
    path = tmp_path / "hostile.html"
    page.write(content.tell(Run.open(hostile_run)), path)
    tab, heard, asked = opened(path)
    assert heard == []
    assert asked == [path.as_uri()]
    assert tab.locator("h1").inner_text() == hostile_run.name
    assert tab.locator("img").count() == 0
