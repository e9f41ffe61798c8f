"""Figures as files: names, sizes, styles, and what is in the SVG, PDF and PNG files that Chromium draws."""

import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.colors import sample_colorscale

from pli_analysis import columns as col
from pli_analysis.commands.figures import UNITS, pixels_of
from pli_analysis.figures.grid import grid
from pli_analysis.figures.loss import figure as loss_figure
from pli_analysis.figures.palette import SEQUENTIAL
from pli_analysis.figures.paper import SQUARES, printed
from pli_analysis.report import content, figure_files, rendering
from pli_analysis.report.parts import Section
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput, PliError
from tests.commands import call, refused

COLUMN, PAGE = 3.25 * 96, 6.75 * 96
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def sections(runs):
    """All sections of a report with figures, without those that need the model."""
    return [section for section in content.build(open_run(runs["gpt2"])).sections if section.figures]


def a_map(rows=3, columns=4, **style):
    values = np.arange(rows * columns, dtype=float).reshape(rows, columns)
    values[0, 1] = np.nan
    return values, grid(values, list("abcdefgh"[:rows]), range(columns), ("step", "layer", "drift"), "%{z}", **style)


# --- widths, formats, names -----------------------------------------------------------------------------------------


def test_widths_in_all_units_are_the_same_width():
    inches = {"in": 1, "cm": 2.54, "mm": 25.4, "pt": 72.27, "px": 96}
    assert inches.keys() == UNITS.keys()
    for unit, number in inches.items():
        assert pixels_of(f"{4 * number}{unit}") == pytest.approx(4 * 96)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "3"], "--width 3: is not a number with a unit; use in, cm, mm, pt, px, such as 3.25in"),
        (["--width", "3em"], "is not a number with a unit"),
        (["--width", "-3in"], "is not a number with a unit"),
        (["--width", "1e9in"], "is not a number with a unit"),
        (["--width", "0in"], "is not between 1.5in and 40in"),
        (["-o", "x.eps"], "x.eps: unknown file ending .eps; use one of .svg, .pdf, .png, or give --format"),
        (["-f", "svg,jpg"], "--format svg,jpg: jpg is none of svg, pdf, png"),
        (["-f", "svg,pdf", "-o", "x.svg"], "is one file, and --format svg,pdf are several: name a folder"),
        (["--only", " , "], "--only: names no figure"),
        (["--only", "drfit"], "--only drfit: is none of loss, lineage, disturbance, drift, map, grad-norms, ablation"),
        (["--only", "drift-foo"], "is none of drift-map, drift-curves, drift-curves-age, drift-cosine"),
        (["--only", "drift", "-o", "x.pdf"], "is one file, and 3 figures are to be written"),
        (["--only", "lineage", "-o", "nowhere/x.pdf"], "cannot be written"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(small_run, tmp_path, words, message, browser_path):
    refused(call("pli-analyze", "figures", small_run, *words, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def browser_path(tmp_path_factory, monkeypatch):
    """A file that is found as the browser, and never started."""
    path = tmp_path_factory.mktemp("bin") / "chromium"
    path.touch()
    monkeypatch.setenv("BROWSER_PATH", str(path))


def test_an_input_is_not_overwritten(small_run, browser_path):
    done = call("pli-analyze", "figures", small_run, "-o", small_run / "run.json", "-f", "svg", "--only", "lineage")
    refused(done, "is part of what is read: name another file")


def test_options_of_one_run_are_refused_for_several(runs, browser_path):
    done = call("pli-analyze", "figures", runs["gpt2"], runs["bert"], "--explain")
    refused(done, "--explain: applies to one run only, and 2 were given")


def test_every_name_begins_with_its_section_and_no_two_are_alike(sections):
    figures = [figure for section in sections for figure in section.figures]
    names = figure_files.named(sections)
    assert [shown.drawing for shown in names.values() if shown.view is None] == [figure.drawing for figure in figures]
    assert {"loss", "loss-flops", "lineage", "drift-map", "drift-curves-age", "map", "map-tsne", "grad-norms"} <= set(
        names
    )
    for section in sections:
        own = figure_files.named([section])
        assert own and figure_files.needed(list(own), content.SECTIONS) == [section.id]


def test_a_name_chooses_a_figure_a_view_or_a_section(sections):
    def chosen(*names):
        return list(figure_files.choose(names, sections))

    assert chosen("loss") == ["loss"] and chosen("loss-flops", "loss") == ["loss-flops", "loss"]
    assert chosen("drift") == ["drift-map", "drift-curves", "drift-cosine"]
    assert list(figure_files.choose(None, sections)) == [
        name for name, shown in figure_files.named(sections).items() if shown.view is None
    ]
    with pytest.raises(BadInput, match=r"^--only lens: there is no figure\. Not measured: no text$"):
        figure_files.choose(["lens"], [Section("lens", "Lenses", words=["Not measured: no text"])])


def test_ids_of_sections_are_those_of_the_tables_of_functions(runs):
    run = open_run(runs["gpt2"])
    assert [section(run).id for section in content.SECTIONS.values()] == list(content.SECTIONS)
    assert [each.measure.__name__ for each in content.EXPLANATIONS.values()] == list(content.EXPLANATIONS)


# --- the style ------------------------------------------------------------------------------------------------------


def numbers(tree, key):
    """Yield the values of a key anywhere in a tree of dicts and lists."""
    for name, own in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if name == key and not isinstance(own, dict):
            yield own
        elif isinstance(own, dict | list | tuple):
            yield from numbers(own, key)


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_nothing_interactive_is_left_and_drawings_are_not_changed(sections, width):
    for name, shown in figure_files.named(sections).items():
        before = shown.drawing.to_json()
        drawn = printed(shown.drawing, width, shown.view)
        assert shown.drawing.to_json() == before
        assert drawn["layout"].keys().isdisjoint({"meta", "updatemenus", "sliders", "template"}), name
        assert all("meta" not in trace for trace in drawn["data"])
        assert drawn["layout"]["width"] == width and 96 < drawn["layout"]["height"] < 8 * 96
        assert go.Figure(drawn), "plotly knows all attributes"


def test_a_view_is_drawn_instead_of_the_first(sections):
    shown = figure_files.named(sections)["loss-flops"]
    first, flops = printed(shown.drawing, COLUMN), printed(shown.drawing, COLUMN, "flops")
    assert [drawn["layout"]["xaxis"]["title"]["text"] for drawn in (first, flops)] == ["steps", "FLOPs"]
    views = [trace.meta["views"]["flops"]["x"] for trace in shown.drawing.data]
    assert [list(trace["x"]) for trace in flops["data"]] == [list(view) for view in views]


@pytest.mark.parametrize("width", [COLUMN, PAGE])
def test_a_heat_map_is_squares_in_the_colors_of_its_values(width):
    values, drawing = a_map()
    drawn = printed(drawing, width)
    squares = {(shape["x0"] + 0.5, shape["y0"] + 0.5): shape["fillcolor"] for shape in drawn["layout"]["shapes"]}
    rows, columns = np.nonzero(np.isfinite(values))
    assert set(squares) == set(zip(columns.astype(float), rows.astype(float), strict=True))
    shares = (values - np.nanmin(values)) / (np.nanmax(values) - np.nanmin(values))
    for (x, y), color in squares.items():
        expected = sample_colorscale(SEQUENTIAL, shares[int(y), int(x)])[0]
        assert [*map(int, re.findall(r"\d+", color))] == pytest.approx(
            [*map(float, re.findall(r"[\d.]+", expected))], abs=1
        )
    assert drawn["layout"]["yaxis"]["categoryarray"] == ["a ", "b ", "c "]
    assert drawn["data"][0]["marker"]["cmax"] == np.nanmax(values)


def test_a_large_heat_map_stays_an_image_with_one_pixel_per_square():
    _, drawing = a_map(8, SQUARES // 8 + 1)
    (trace,) = printed(drawing, COLUMN)["data"]
    assert trace["type"] == "heatmap" and trace["xgap"] == trace["ygap"] == 0


def test_names_on_the_axes_of_a_heat_map_are_categories_and_fit():
    """Numbers would be positions where no category has this name, and names where one has."""
    drawing = grid(np.zeros((2, 40)), "ab", [5 * step for step in range(40)], ("step", "layer", "drift"), "%{z}")
    for ticks in (printed(drawing, COLUMN)["layout"]["xaxis"]["tickvals"], drawing.layout.xaxis.tickvals):
        assert set(ticks) < set(drawing.data[0].x)
        positions = [drawing.data[0].x.index(name) for name in ticks]
        assert len(set(np.diff(positions))) == 1 and len(positions) <= 14


def test_long_titles_are_wrapped_in_a_column_alone():
    title = "absolute change of the loss on held-out blocks (nats)"
    drawing = go.Figure(go.Scatter(x=[1], y=[1]), {"yaxis": {"title": {"text": title}}})
    wrapped = printed(drawing, COLUMN)["layout"]["yaxis"]["title"]["text"]
    assert wrapped.replace("<br>", " ") == title and wrapped.count("<br>") == 1
    assert printed(drawing, 2 * PAGE)["layout"]["yaxis"]["title"]["text"] == title


# --- without a browser ----------------------------------------------------------------------------------------------


def test_a_missing_library_or_browser_is_said_with_what_to_do(small_run, monkeypatch, tmp_path):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    done = call("pli-analyze", "figures", small_run)
    refused(done, f"BROWSER_PATH: {tmp_path}/none is not a file; set it to the file of a Chrome or Chromium")
    from choreographer.browsers.chromium import Chromium

    monkeypatch.setattr(Chromium, "find_browser", lambda **settings: None)
    with pytest.raises(BadInput, match=r"^figures: needs a Chrome or Chromium; install one .*, or set BROWSER_PATH"):
        rendering.require_browser()
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=re.escape("install it with: pip install 'pli[figures]'")):
        rendering.require_browser()


def test_a_browser_that_does_not_start_is_named(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    drawing = printed(go.Figure(go.Scatter(x=[1], y=[1])), COLUMN)
    with pytest.raises(PliError, match=r"^/bin/false: cannot draw the figures \(.*\); set BROWSER_PATH"):
        rendering.render({"one": drawing}, ["svg"], 300)


def test_kaleido_is_imported_by_the_command_alone():
    code = (
        "import sys, pli_analysis.cli, pli_analysis.commands.figures; print({'kaleido', 'plotly'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# --- the files ------------------------------------------------------------------------------------------------------


def pdf_text(content):
    """Return the text of a PDF of Chromium, the sizes of its letters in points, and whether all fonts are embedded.

    A short reader of its own: objects, streams, maps from glyphs to Unicode, and the matrices that scale the text.
    """
    objects = dict(re.findall(rb"(\d+) 0 obj\n(.*?)\nendobj", content, re.S))
    streams = {}
    for number, body in objects.items():
        if found := re.search(rb"stream\r?\n(.*)\nendstream", body, re.S):
            streams[number] = zlib.decompress(found[1]) if b"FlateDecode" in body else found[1]
    letters, embedded = {}, []
    for name, number in re.findall(rb"/(F\d+) (\d+) 0 R", content):
        cmap = streams[re.search(rb"/ToUnicode (\d+)", objects[number])[1]].decode()
        child = objects[re.search(rb"/DescendantFonts \[(\d+)", objects[number])[1]]
        embedded.append(b"/FontFile2" in objects[re.search(rb"/FontDescriptor (\d+)", child)[1]])
        own = {}
        for block in re.findall(r"beginbfchar\n(.*?)endbfchar", cmap, re.S):
            own |= {int(glyph, 16): int(code, 16) for glyph, code in re.findall(r"<(\w+)> <(\w+)>", block)}
        for block in re.findall(r"beginbfrange\n(.*?)endbfrange", cmap, re.S):
            for low, high, code in re.findall(r"<(\w+)> <(\w+)> <(\w+)>", block):
                own |= {int(low, 16) + step: int(code, 16) + step for step in range(int(high, 16) - int(low, 16) + 1)}
        letters[name.decode()] = own
    words, sizes = [], set()
    page = next(stream for stream in streams.values() if b" Tf" in stream).decode()
    outer = [float(scale) for scale in re.findall(r"^([\d.]+) 0 0 -?[\d.]+ [-\d.]+ [-\d.]+ cm", page, re.M)[:2]]
    for text in re.findall(r"BT\n(.*?)ET", page, re.S):
        font, size = re.search(r"/(F\d+) ([\d.]+) Tf", text).groups()
        sizes.add(round(float(size) * outer[0] * outer[1], 1))
        glyphs = [hex[at : at + 4] for hex in re.findall(r"<(\w+)>", text) for at in range(0, len(hex), 4)]
        words.append("".join(chr(letters[font][int(glyph, 16)]) for glyph in glyphs))
    return words, sizes, bool(embedded) and all(embedded)


@pytest.fixture(scope="module")
def files():
    """Two figures at 3.25 inches in all formats, drawn once, and a second time as SVG and PDF."""
    table = pd.DataFrame({col.STEP: range(5), col.TOKENS: 1.0, col.FLOPS: 2.0, col.SECONDS: 3.0})
    losses = table.assign(**{col.LOSS: [5, 4, 3, 2.5, 2.25], col.SPLIT: "eval"})
    births = {axis: np.array([2.0]) for axis in (col.STEP, col.TOKENS, col.FLOPS, col.SECONDS)}
    drawings = {
        "loss": printed(loss_figure(losses, births, ["+b"]), COLUMN),
        "map": printed(a_map()[1], COLUMN),
    }
    first = rendering.render(drawings, ["svg", "pdf", "png"], 300)
    return first, rendering.render(drawings, ["svg", "pdf"], 300, scale=1.0), drawings


@pytest.mark.browser
def test_an_svg_has_its_text_as_text_of_7_to_9_points_and_its_width_in_inches(files):
    for name, titles in {"loss": ["steps", "loss (nats per token)"], "map": ["step", "layer", "drift"]}.items():
        root = ET.fromstring(files[0][name, "svg"])
        texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
        assert set(titles) <= set(texts)
        sizes = [float(size) for size in re.findall(rb"font-size: ([\d.]+)px", files[0][name, "svg"])]
        assert len(sizes) >= len(texts) and all(7 - 0.01 <= size * 0.75 <= 9 for size in sizes)
        assert root.get("width") == "3.25in"
        assert float(root.get("height").removesuffix("in")) == pytest.approx(
            files[2][name]["layout"]["height"] / 96, abs=1e-4
        )


@pytest.mark.browser
def test_an_svg_is_all_vectors_without_script_link_or_anything_to_click(files):
    for name in ("loss", "map"):
        root = ET.fromstring(files[0][name, "svg"])
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert tags <= {"svg", "g", "path", "rect", "text", "tspan", "defs", "clipPath", "linearGradient", "stop"}
        assert not re.search(
            rb"legendtoggle|modebar|pointer-events|cursor|updatemenu|slider|http://(?!www\.w3)", files[0][name, "svg"]
        )


@pytest.mark.browser
def test_a_pdf_has_one_page_of_the_width_with_embedded_fonts_and_text_that_can_be_read(files):
    for name, titles in {"loss": ["steps", "loss (nats per token)", "eval"], "map": ["step", "layer", "drift"]}.items():
        content = files[0][name, "pdf"]
        words, sizes, embedded = pdf_text(content)
        assert set(titles) <= set(words) and embedded
        assert sizes == {7.0, 8.0}
        ((width, height),) = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content)
        assert float(width) == pytest.approx(3.25 * 72, abs=0.5)
        assert float(height) == pytest.approx(files[2][name]["layout"]["height"] * 0.75, abs=0.75)
        assert b"/Subtype /Image" not in content


@pytest.mark.browser
def test_a_png_has_the_pixels_and_the_resolution(files):
    for name in ("loss", "map"):
        content = files[0][name, "png"]
        chunks, at = {}, 8
        while at < len(content):
            (size,) = struct.unpack(">I", content[at : at + 4])
            kind, data, check = (
                content[at + 4 : at + 8],
                content[at + 8 : at + 8 + size],
                content[at + 8 + size : at + 12 + size],
            )
            assert struct.unpack(">I", check)[0] == zlib.crc32(kind + data)
            chunks.setdefault(kind, data)
            at += 12 + size
        assert struct.unpack(">I", chunks[b"IHDR"][:4])[0] == 3.25 * 300
        x, y, unit = struct.unpack(">IIB", chunks[b"pHYs"])
        assert unit == 1 and x == y == round(300 / 0.0254)


@pytest.mark.browser
def test_the_same_figure_gives_the_same_bytes(files):
    first, second, _ = files
    assert all(second[key] == first[key] for key in second)


@pytest.mark.browser
def test_the_command_writes_the_files_and_prints_their_paths(small_run, tmp_path):
    words = ["figures", small_run, "--only", "lineage", "--width", "8.25cm"]
    done = call("pli-analyze", *words, "-f", "svg,pdf", "-o", tmp_path / "figs")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/figs/lineage.svg\n{tmp_path}/figs/lineage.pdf\n")
    slides = call("pli-analyze", *words, "--style", "slides", "-o", tmp_path / "slides.svg")
    assert slides.stdout == f"{tmp_path}/slides.svg\n"
    paper, large = (ET.parse(tmp_path / path).getroot() for path in ("figs/lineage.svg", "slides.svg"))
    assert [root.get("width") for root in (paper, large)] == [f"{8.25 / 2.54:.6g}in"] * 2
    widths = [float(root.get("viewBox").split()[2]) for root in (paper, large)]
    assert widths[0] == pytest.approx(2 * widths[1]), "text is twice as large"
