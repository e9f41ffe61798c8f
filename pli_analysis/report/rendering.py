"""Render figures as SVG, PDF and PNG files, with kaleido and a Chrome or Chromium of this machine."""

from __future__ import annotations

import asyncio
import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pli_analysis.figures.paper import INCH
from pli_train.core.errors import BadInput, PliError

FORMATS = ("svg", "pdf", "png")
SECONDS = 120
"""Maximum time for one file, in seconds."""
INSTALL = "install one (Debian: apt-get install chromium), or set BROWSER_PATH to its file"


def require_browser() -> Path:
    """Return the browser that draws the figures.

    Raises:
        BadInput: without kaleido, version 1 or later, or without a Chrome or Chromium.
    """
    if find_spec("kaleido") is None or find_spec("choreographer") is None:
        raise BadInput("figures: needs the `figures` extra; install it with: pip install 'pli[figures]'")
    from choreographer.browsers.chromium import Chromium

    found = Chromium.find_browser(skip_local=False)  # the path of BROWSER_PATH, even if there is no such file
    if not found:
        raise BadInput(f"figures: needs a Chrome or Chromium; {INSTALL}")
    if not Path(found).is_file():
        raise BadInput(f"BROWSER_PATH: {found} is not a file; set it to the file of a Chrome or Chromium")
    return Path(found)


def render(
    drawings: Mapping[str, Mapping[str, Any]],
    formats: Sequence[str],
    dpi: float,
    scale: float = 1.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[str, str], bytes]:
    """Draw figures in a browser without a window, and without network access.

    Args:
        drawings: name → data and layout for plotly, with width and height in pixels (96 per inch).
        formats: of `FORMATS`.
        dpi: pixels per inch of PNG.
        scale: size of the files ÷ size of the drawings.
        on_progress: called with (files done, total files).

    Returns:
        (name, format) → content of the file. The same drawing gives the same bytes with the same browser.

    Raises:
        BadInput: as `require_browser`.
        PliError: if the browser does not start, or cannot draw a figure.
    """
    browser = require_browser()
    from choreographer.errors import BrowserClosedError, BrowserFailedError, DevtoolsProtocolError
    from kaleido import errors

    failures = (BrowserClosedError, BrowserFailedError, DevtoolsProtocolError, errors.KaleidoError, TimeoutError)
    try:
        return asyncio.run(_drawn(browser, drawings, formats, dpi, scale, on_progress))
    except (*failures, errors.JavascriptError) as error:
        reason = str(error.args[0] if error.args else type(error).__name__).rstrip(".")
        raise PliError(f"{browser}: cannot draw the figures ({reason}); set BROWSER_PATH to another browser") from None


async def _drawn(
    browser: Path,
    drawings: Mapping[str, Mapping[str, Any]],
    formats: Sequence[str],
    dpi: float,
    scale: float,
    on_progress: Callable[[int, int], None],
) -> dict[tuple[str, str], bytes]:
    from kaleido import Kaleido, PageGenerator

    drawn: dict[tuple[str, str], bytes] = {}
    with as_file(files("pli_analysis") / "report" / "plotly-cartesian.min.js") as plotly:
        page = PageGenerator(plotly=plotly.resolve(), mathjax=False)  # MathJax would be read from the network
        page.header += "<style>@page { margin: 0 }</style>"  # otherwise a PDF is shrunk to have a margin
        async with Kaleido(path=browser, timeout=SECONDS, page_generator=page) as kaleido:
            for name, drawing in drawings.items():
                size = {side: drawing["layout"][side] for side in ("width", "height")}
                for format in formats:
                    on_progress(len(drawn), len(drawings) * len(formats))
                    pixels = scale * (dpi / INCH if format == "png" else 1.0)
                    content = await kaleido.calc_fig(dict(drawing), {"format": format, "scale": pixels, **size})
                    drawn[name, format] = _FINISH[format](content, dpi)
    on_progress(len(drawn), len(drawn))
    return drawn


def _svg(content: bytes, dpi: float) -> bytes:
    """Return an SVG with its size in inches, ids that depend only on its content, and nothing to click."""
    text = re.sub(r'<rect class="(legendtoggle|scrollbar)"[^>]*/>| pointer-events="all"', "", content.decode())
    inches = (
        f'{side}="{float(value) / INCH:.6g}in"' for side, value in re.findall(r'(width|height)="([\d.]+)"', text)[:2]
    )
    text = re.sub(r'width="[\d.]+" height="[\d.]+"', " ".join(inches), text, count=1)
    if found := re.search(r'id="defs-(\w{6})"', text):
        parts = re.split(rf"(?<=[a-z-]){found[1]}", text)  # the random part of the ids of one drawing
        text = hashlib.sha256("".join(parts).encode()).hexdigest()[:6].join(parts)
    return text.encode()


def _pdf(content: bytes, dpi: float) -> bytes:
    """Return a PDF without the time at which it was written; its length stays, because the file has offsets."""
    return re.sub(rb"(Date \(D:)\d{14}", rb"\g<1>" + b"20000101000000", content)


def _png(content: bytes, dpi: float) -> bytes:
    """Return a PNG with its resolution, after the first chunk (8 bytes of signature, 25 of the header)."""
    meters = round(dpi / 0.0254)
    chunk = b"pHYs" + struct.pack(">IIB", meters, meters, 1)
    return content[:33] + struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


_FINISH: dict[str, Callable[[bytes, float], bytes]] = {"svg": _svg, "pdf": _pdf, "png": _png}
