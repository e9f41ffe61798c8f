"""The page as a person opens it: offline, in Chromium, light and dark, wide and narrow."""

import itertools
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pli_analysis.metrics.maps.embedding import embed
from pli_analysis.report import content, page
from pli_analysis.runs.opening import open_run
from tests.in_browser import until

pytestmark = pytest.mark.browser


LIT = """figure => document.querySelector(`#figure-${figure} .drawing`)._fullData
         .filter(t => t.meta && t.meta.layer).map(t => [t.meta.layer, t.opacity])"""


@pytest.fixture
def report(runs, family, tmp_path):
    path = tmp_path / "report.html"
    page.write(content.build(open_run(runs[family])), path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_opens_offline_without_a_complaint(opened, report, width, scheme):
    tab, outputs, asked = opened(report, width, scheme)
    assert outputs == []
    assert asked == [report.as_uri()]
    assert tab.locator("figure").count() >= 7
    for drawing in tab.locator(".drawing").all():
        assert drawing.get_attribute("aria-label")
        assert drawing.locator(".main-svg").first.bounding_box()["width"] > 200
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page scrolls sideways"
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 3 * 128) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_result_is_above_the_fold(opened, report, runs, family, width, scheme):
    """Verdict and key figures fit the first screen, and loss and stack have one axis."""
    tab, outputs, _ = opened(report, width, scheme)
    bottom = tab.locator("header .key").bounding_box()
    assert bottom["y"] + bottom["height"] < 900
    assert tab.locator("main > *").first.get_attribute("id") == "figure-hero"
    domains = tab.evaluate("""() => {
        const { _fullData, _fullLayout: { yaxis, yaxis2, xaxis2 } } = document.querySelector('#figure-hero .drawing');
        return [yaxis.domain, yaxis2.domain, xaxis2 === undefined, Math.max(..._fullData.flatMap(t => [...t.x]))] }""")
    assert domains[0][0] > domains[1][1] and domains[2]
    assert domains[3] == open_run(runs[family]).scalars.table("progress/flops")["value"].iloc[-1]
    assert outputs == []


def test_the_axis_of_loss_switches_and_takes_the_events_along(opened, report, runs, family):
    tab, outputs, _ = opened(report)
    drawn = "document.querySelector('#figure-loss .drawing').data"
    for button, axis in (("tokens", "tokens"), ("FLOPs", "flops"), ("seconds of training", "seconds")):
        tab.locator("figure#figure-loss").first.get_by_role("button", name=button, exact=True).click()
        xs, kept = tab.evaluate(f"[{drawn}.map(t => [...t.x]), {drawn}.map(t => t.meta.views['{axis}'].x)]")
        assert xs == kept
    scalars = open_run(runs[family]).scalars
    assert xs[2][::3] == pytest.approx([scalars.values["progress/seconds"][step][1] for step in (3, 6, 9)], rel=1e-4)
    assert outputs == []


def test_a_view_outlasts_the_theme_and_leads_back(opened, report):
    """Curves of drift, over age and over steps again."""
    tab, outputs, _ = opened(report)
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
    assert outputs == []


def test_the_map_switches_its_method_and_nothing_moves(opened, report, runs, family):
    tab, outputs, _ = opened(report)
    figure, table = tab.locator("#figure-map"), embed(open_run(runs[family]), further=["tsne"]).table
    buttons = {button.inner_text(): button for button in figure.locator(".views button").all()}
    assert list(buttons) == ["PCA", "t-SNE"]
    tab.locator(".layers button").nth(1).press("Enter")

    def seen():
        xs, ys, titles = tab.evaluate("""() => {
            const { _fullData, _fullLayout: own } = document.querySelector('#figure-map .drawing');
            const paths = _fullData.filter(t => t.meta.layer);
            return [paths.flatMap(t => [...t.x]), paths.flatMap(t => [...t.y]),
                    [own.xaxis, own.yaxis, own.xaxis2, own.yaxis2].map(axis => axis.title.text)] }""")
        assert {layer for layer, opacity in tab.evaluate(LIT, "map") if opacity == 1} == {"b"}
        pressed = [name for name, button in buttons.items() if button.get_attribute("aria-pressed") == "true"]
        caption = figure.locator("figcaption").inner_text()  # what is hidden is not in it
        assert figure.locator(".drawing").get_attribute("aria-label") == f"Map of the layers. {caption}"
        height = tab.evaluate("document.documentElement.scrollHeight"), figure.bounding_box()["height"]
        return xs, ys, titles, pressed, caption, height

    def locations(x, y):
        rows = [part for _, walk in table.groupby("walk", sort=False) for _, part in walk.groupby("part", sort=False)]
        return [pytest.approx([position for part in rows for position in part[axis]], rel=1e-6) for axis in (x, y)]

    pca = seen()
    assert [*pca[:2]] == locations("x", "y")
    assert [title.partition(",")[0] for title in pca[2]] == ["PC1", "PC2", "PC1", "PC2"]
    assert pca[3] == ["PCA"] and "of the variance" in pca[4]
    buttons["PCA"].focus()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Space")
    tsne = seen()
    assert [*tsne[:2]] == locations("x_tsne", "y_tsne")
    assert tsne[2] == ["t-SNE 1", "t-SNE 2"] * 2
    assert tsne[3] == ["t-SNE"] and "t-SNE preserves neighborhoods" in tsne[4] and "of the variance" not in tsne[4]
    assert tsne[5] == pca[5], "something moved"
    buttons["PCA"].press("Enter")
    assert seen() == (pytest.approx(pca[0]), pytest.approx(pca[1]), *pca[2:])
    assert outputs == []


def test_two_maps_stand_side_by_side_or_one_above_the_other_with_no_words_in_words(opened, report):
    tab, outputs, _ = opened(report, 360)
    locations = """() => [...document.querySelectorAll(
        '#figure-map :is(.annotation-text, .xtitle, .x2title, .ytitle, .y2title)'
    )].map(words => words.getBoundingClientRect().toJSON())"""

    def check():
        words, drawing = tab.evaluate(locations), tab.locator("#figure-map .drawing").bounding_box()
        assert len(words) == 6
        for one in words:
            assert one["left"] >= drawing["x"] and one["right"] <= drawing["x"] + drawing["width"]
        for one, other in itertools.combinations(words, 2):
            relative_distances = one["right"] <= other["left"] or other["right"] <= one["left"]
            assert relative_distances or one["bottom"] <= other["top"] or other["bottom"] <= one["top"]
        return drawing["height"]

    tab.locator("#figure-map").scroll_into_view_if_needed()
    tall = check()
    tab.set_viewport_size({"width": 1200, "height": 900})
    until(tab, "document.querySelector('#figure-map .drawing')._fullLayout.yaxis2.domain[1] === 1")
    tab.wait_for_timeout(500)
    assert check() < tall
    assert outputs == []


@pytest.mark.parametrize(("width", "share"), [(360, 0.6), (1200, 0.7)])
def test_heat_maps_have_their_room_and_their_colors_are_explained(opened, report, width, share):
    """Beside the map where there is room for both, below it where there is not; all of it within the drawing."""
    tab, _, _ = opened(report, width)
    found = tab.evaluate("""() => [...document.querySelectorAll(".drawing")]
        .filter(d => d.querySelector(".heatmaplayer .hm"))
        .map(d => [".bglayer .bg, .nsewdrag", ".colorbar .cbfills", ".xtitle", ""].map(
            of => (of ? d.querySelector(of) : d).getBoundingClientRect().toJSON()))""")
    assert len(found) >= 2
    for plot, bar, title, drawing in found:
        assert plot["width"] > share * drawing["width"] and plot["height"] > 80
        assert (
            drawing["left"] <= min(bar["left"], title["left"]) and max(bar["right"], title["right"]) <= drawing["right"]
        )
        if width == 360:
            assert plot["bottom"] < title["bottom"] < bar["top"] < bar["bottom"] < drawing["bottom"]
        else:
            assert plot["right"] < bar["left"]


def test_the_theme_button_repaints_the_figures(opened, report):
    tab, outputs, _ = opened(report)
    ink = "document.querySelector('#figure-drift-map .drawing')._fullLayout.font.color"
    before = tab.evaluate(ink)
    tab.locator("#theme").press("Enter")
    assert tab.evaluate(ink) != before
    assert outputs == []


def test_the_csv_button_gives_the_table(opened, report):
    tab, _, _ = opened(report)
    tab.locator("#figure-drift-map summary").press("Enter")
    with tab.expect_download() as download:
        tab.locator("#figure-drift-map .download").click()
    head, *rows = Path(download.value.path()).read_text().splitlines()
    assert head.split(",") == tab.locator("#figure-drift-map thead th").all_inner_texts()
    assert len(rows) == tab.locator("#figure-drift-map tbody tr").count() > 0


@pytest.mark.parametrize(("scheme", "card"), [("light", (255, 255, 255)), ("dark", (27, 33, 38))])
def test_the_picture_buttons_give_the_figure_as_it_is_drawn(opened, report, scheme, card):
    """By keyboard, offline, in the view and the colors that are shown."""
    tab, outputs, asked = opened(report, scheme=scheme)
    figure = tab.locator("#figure-drift-curves")
    figure.get_by_role("button", name="age (steps since birth)").press("Enter")
    figure.locator("summary").press("Enter")
    figure.locator(".download").focus()
    files = {}
    for format in ("svg", "png"):
        tab.keyboard.press("Tab")
        with tab.expect_download() as download:
            tab.keyboard.press("Enter")
        assert download.value.suggested_filename == f"drift-curves.{format}"
        files[format] = Path(download.value.path()).read_bytes()
    root = ET.fromstring(files["svg"])
    texts = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"age (steps since birth)", "relative L2 since birth"} <= texts
    drawn = figure.locator(".main-svg").first.bounding_box()
    assert (float(root.get("width")), float(root.get("height"))) == (drawn["width"], drawn["height"])
    assert files["png"][:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", files["png"][16:24]) == (int(3 * drawn["width"]), int(3 * drawn["height"]))
    assert f"fill: rgb{card}; fill-opacity: 1" in files["svg"].decode()
    assert outputs == [] and [url for url in asked if not url.startswith("blob:")] == [report.as_uri()]
    tab.emulate_media(media="print")
    assert not any(button.is_visible() for button in tab.locator(".picture, .download").all())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_an_accessibility_check_finds_nothing_serious(opened, report, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    tab, *_ = opened(report, width, scheme)
    found = Axe().run(tab).response
    assert len(found["passes"]) > 20, "it did not look"
    message = [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found["violations"]]
    assert [line for line in message if line[1] in ("serious", "critical", "moderate")] == []
    tab.locator("#figure-map .views button").last.click()
    message = [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in Axe().run(tab).response["violations"]]
    assert [line for line in message if line[1] in ("serious", "critical", "moderate")] == []
    tab.evaluate("document.documentElement.removeAttribute('lang')")
    assert Axe().run(tab).response["violations"], "it finds nothing whatever there is"


def test_a_layer_is_followed_through_all_figures(opened, report):
    tab, outputs, _ = opened(report)
    button = tab.locator(".layers button").nth(1)
    assert [button.inner_text(), button.get_attribute("aria-pressed")] == ["b", "false"]
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    for figure in ("lineage", "drift-curves", "map"):
        shown = tab.evaluate(LIT, figure)
        assert {opacity for layer, opacity in shown if layer == "b"} == {1}
        assert {opacity for layer, opacity in shown if layer != "b"} == {0.12}
    framed = "document.querySelector('#figure-drift-map .drawing')._fullLayout.shapes.length"
    assert tab.evaluate(framed) == 1
    button.press("Enter")
    assert tab.evaluate(framed) == 0 and {opacity for _, opacity in tab.evaluate(LIT, "map")} == {1}
    tab.locator("#figure-map").scroll_into_view_if_needed()
    assert outputs == []


def test_figures_far_below_wait_until_there_is_time(chromium, report):
    """Drawn when they come near or the page is idle, and all of them before a print."""
    tab = chromium.new_context(viewport={"width": 1200, "height": 900}, offline=True).new_page()
    tab.add_init_script("window.requestIdleCallback = () => {}")
    tab.goto(Path(report).as_uri())
    there = "[...document.querySelectorAll('.drawing')].map(d => Boolean(d.querySelector('.main-svg')))"
    until(tab, f"{there}[0]")
    assert not tab.evaluate(there)[-1]
    tab.locator(".layers button").nth(1).press("Enter")
    tab.locator("figure").last.scroll_into_view_if_needed()
    until(tab, f"{there}.at(-1)")
    assert not all(tab.evaluate(there))
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(tab.evaluate(there))
    assert set(map(tuple, tab.evaluate(LIT, "map"))) == {(layer, 1 if layer == "b" else 0.12) for layer in "abcde"}
    tab.context.close()


def test_a_hostile_run_executes_nothing(opened, hostile_run, tmp_path):
    path = tmp_path / "hostile.html"
    page.write(content.build(open_run(hostile_run)), path)
    tab, outputs, asked = opened(path)
    assert outputs == []
    assert asked == [path.as_uri()]
    assert tab.locator("h1").inner_text() == hostile_run.name
    assert tab.locator("img").count() == 0


def test_paper_is_white_and_opens_what_is_closed(opened, report):
    tab, outputs, _ = opened(report, scheme="dark")
    state = """() => [document.documentElement.dataset.theme, document.querySelectorAll('.method:not([open])').length,
      ...new Set([...document.querySelectorAll('.drawing')].map(d => d._fullLayout.width))]"""
    before = tab.evaluate(state)
    assert before[0] == "dark" and before[1] >= 5
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    until(tab, "[...document.querySelectorAll('.drawing')].every(d => d._fullLayout.width === 660)")
    assert tab.evaluate(state) == ["light", 0, 660]
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    until(tab, "[...document.querySelectorAll('.drawing')].every(d => d._fullLayout.width !== 660)")
    assert tab.evaluate(state) == before
    assert outputs == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1440, "light")])
def test_a_page_of_several_runs_opens_and_can_be_used_by_all(opened, runs, tmp_path, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    from pli_analysis.metrics.comparison import curves as curve_metric
    from pli_analysis.report import several

    message = several.build(
        {name: open_run(path) for name, path in runs.items()}, curve_metric.read(map(str, runs.values()))
    )
    page.write(message, tmp_path / "several.html")
    tab, outputs, asked = opened(tmp_path / "several.html", width, scheme)
    assert outputs == [] and asked == [(tmp_path / "several.html").as_uri()]
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page scrolls sideways"
    title = "document.querySelector('#figure-speed-up .drawing').layout.yaxis.title.text"
    first = tab.evaluate(title)
    tab.locator("#figure-speed-up").get_by_role("button", name="FLOPs").press("Enter")
    assert "FLOPs" in tab.evaluate(title) != first
    found = Axe().run(tab).response["violations"]
    assert [line["id"] for line in found if line["impact"] in ("serious", "critical", "moderate")] == []


def test_what_was_not_drawn_yet_fits_the_paper_too(chromium, report):
    tab = chromium.new_context(viewport={"width": 1200, "height": 900}, offline=True).new_page()
    tab.add_init_script("window.requestIdleCallback = () => {}")
    tab.goto(report.as_uri())
    undrawn = "[...document.querySelectorAll('.drawing')].filter(d => !d.querySelector('.main-svg')).length"
    assert tab.evaluate(undrawn) > 0
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    until(tab, "[...document.querySelectorAll('.drawing')].every(d => d._fullLayout && d._fullLayout.width === 660)")
    tab.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_page_of_a_study_opens_and_can_be_used_by_all(opened, searched, tmp_path, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    from pli_analysis.metrics.sweep.results import results
    from pli_analysis.report import sweep

    page.write(sweep.build(results(searched)), tmp_path / "study.html")
    tab, outputs, asked = opened(tmp_path / "study.html", width, scheme)
    assert outputs == [] and asked == [(tmp_path / "study.html").as_uri()]
    overflow = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0, "the page scrolls sideways"
    columns = tab.evaluate("""() => {
        const { xaxis, xaxis2 } = document.querySelector('#figure-slices .drawing')._fullLayout;
        return xaxis.domain[0] === xaxis2.domain[0] ? 1 : 2 }""")
    assert columns == (1 if width == 390 else 2)
    outside = tab.evaluate("""() => ['parallel', 'importance']
        .map(name => document.querySelector(`#figure-${name} .drawing`))
        .flatMap(d => {
            const box = d.getBoundingClientRect();
            return [...d.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
                .filter(([, t]) => t.width && (t.left < box.left - 1 || t.right > box.right + 1))
                .map(([words]) => words) })""")
    assert outside == []
    found = Axe().run(tab).response["violations"]
    assert [line["id"] for line in found if line["impact"] in ("serious", "critical", "moderate")] == []
