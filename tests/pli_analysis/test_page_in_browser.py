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


def until(tab, expression):
    """Wait until it holds; the page's policy forbids playwright's own way, which evaluates text there."""
    for _ in range(600):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(50)
    raise AssertionError(expression)


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
        until(tab, "[...document.querySelectorAll('.drawing')].every(d => d.querySelector('.main-svg'))")
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
    assert tab.locator("figure").count() >= 7
    for drawing in tab.locator(".drawing").all():
        assert drawing.get_attribute("aria-label")
        assert drawing.locator(".main-svg").first.bounding_box()["width"] > 200
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page scrolls sideways"
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 3 * 128) == (scheme == "dark")


def test_the_axis_of_loss_switches_and_takes_the_events_along(opened, report, runs, family):
    tab, heard, _ = opened(report)
    drawn = "document.querySelector('#figure-loss .drawing').data"
    for button, axis in (("tokens", "tokens"), ("FLOPs", "flops"), ("seconds of training", "seconds")):
        tab.locator("figure#figure-loss").first.get_by_role("button", name=button, exact=True).click()
        xs, kept = tab.evaluate(f"[{drawn}.map(t => [...t.x]), {drawn}.map(t => t.meta.views['{axis}'].x)]")
        assert xs == kept
    scalars = Run.open(runs[family]).scalars
    assert xs[2][::3] == pytest.approx([scalars.values["progress/seconds"][step][1] for step in (3, 6, 9)], rel=1e-4)
    assert heard == []


def test_a_view_outlasts_the_theme_and_leads_back(opened, report):
    """Curves of drift, over age and over steps again."""
    tab, heard, _ = opened(report)
    figure = tab.locator("#figure-drift-curves")

    def seen():
        xs, title, ends = tab.evaluate("""() => {
            const { _fullData, _fullLayout: { xaxis } } = document.querySelector('#figure-drift-curves .drawing');
            return [_fullData.map(t => [...t.x]), xaxis.title.text, xaxis.range] }""")
        return xs, title, [round(end, 1) for end in ends]  # how much room is left at the ends hangs on pixels

    over_steps = seen()
    figure.get_by_role("button", name="age (steps since birth)").press("Enter")
    over_age = seen()
    assert {xs[0] for xs in over_age[0]} == {0} != {xs[0] for xs in over_steps[0]}
    assert over_age[1] == "age (steps since birth)"
    tab.locator("#theme").press("Enter")
    assert seen() == over_age
    figure.get_by_role("button", name="steps", exact=True).press("Enter")
    assert seen() == over_steps
    assert heard == []


def test_the_theme_button_repaints_the_figures(opened, report):
    tab, heard, _ = opened(report)
    ink = "document.querySelector('#figure-drift-map .drawing')._fullLayout.font.color"
    before = tab.evaluate(ink)
    tab.locator("#theme").press("Enter")
    assert tab.evaluate(ink) != before
    assert heard == []


def test_the_csv_button_gives_the_table(opened, report):
    tab, _, _ = opened(report)
    tab.locator("#figure-drift-map summary").press("Enter")
    with tab.expect_download() as download:
        tab.locator("#figure-drift-map .download").click()
    head, *rows = Path(download.value.path()).read_text().splitlines()
    assert head.split(",") == tab.locator("#figure-drift-map thead th").all_inner_texts()
    assert len(rows) == tab.locator("#figure-drift-map tbody tr").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_an_accessibility_check_finds_nothing_serious(opened, report, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab, *_ = opened(report, width, scheme)
    found = Axe().run(tab).response
    assert len(found["passes"]) > 20, "it did not look"
    told = [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found["violations"]]
    assert [line for line in told if line[1] in ("serious", "critical", "moderate")] == []
    tab.evaluate("document.documentElement.removeAttribute('lang')")
    assert Axe().run(tab).response["violations"], "it finds nothing whatever there is"


def test_a_layer_is_followed_through_all_figures(opened, report):
    tab, heard, _ = opened(report)
    button = tab.locator(".layers button").nth(1)
    assert [button.inner_text(), button.get_attribute("aria-pressed")] == ["b", "false"]
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    dim = """figure => document.querySelector(`#figure-${figure} .drawing`)._fullData
             .filter(t => t.meta && t.meta.layer).map(t => [t.meta.layer, t.opacity])"""
    for figure in ("lineage", "drift-curves", "map"):
        shown = tab.evaluate(dim, figure)
        assert {opacity for layer, opacity in shown if layer == "b"} == {1}
        assert {opacity for layer, opacity in shown if layer != "b"} == {0.12}
    framed = "document.querySelector('#figure-drift-map .drawing')._fullLayout.shapes.length"
    assert tab.evaluate(framed) == 1
    button.press("Enter")
    assert tab.evaluate(framed) == 0 and {opacity for _, opacity in tab.evaluate(dim, "map")} == {1}
    tab.locator("#figure-map").scroll_into_view_if_needed()
    assert heard == []


def test_figures_far_below_wait_until_there_is_time(chromium, report):
    """Drawn when they come near or the page is idle, and all of them before a print."""
    tab = chromium.new_context(viewport={"width": 1200, "height": 600}, offline=True).new_page()
    tab.add_init_script("window.requestIdleCallback = () => {}")
    tab.goto(Path(report).as_uri())
    there = "[...document.querySelectorAll('.drawing')].map(d => Boolean(d.querySelector('.main-svg')))"
    until(tab, f"{there}[0]")
    assert not tab.evaluate(there)[-1]
    tab.locator("figure").last.scroll_into_view_if_needed()
    until(tab, f"{there}.at(-1)")
    assert not all(tab.evaluate(there))
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(tab.evaluate(there))
    tab.context.close()


def test_a_hostile_run_executes_nothing(opened, hostile_run, tmp_path):  # noqa: F811
    path = tmp_path / "hostile.html"
    page.write(content.tell(Run.open(hostile_run)), path)
    tab, heard, asked = opened(path)
    assert heard == []
    assert asked == [path.as_uri()]
    assert tab.locator("h1").inner_text() == hostile_run.name
    assert tab.locator("img").count() == 0
