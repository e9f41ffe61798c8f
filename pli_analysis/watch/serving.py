"""Serve the report on this machine and rebuild it while the run trains."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pli_analysis.report import page, process
from pli_analysis.report.parts import Report, Section
from pli_analysis.watch.latest import TRIES
from pli_train.core.errors import BadInput, first_line

if TYPE_CHECKING:
    from pli_analysis.watch.frame import Frame

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")
"""What a browser may call this machine. Any other name was led here by a stranger's name server."""
REST = 5.0
"""Pauses between two pages, in times that the last one took: making them takes a sixth of a core at most."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Build = Callable[[Path, str, threading.Event], bytes]


@dataclass(frozen=True)
class Page:
    """A whole page, and the version that it names itself by."""

    version: str
    html: bytes


class Served:
    """Listens until closed. A page is served until the next one is whole.

    Args:
        path: of the run.
        port: to listen at; any free one for 0.
        build: makes a page, see `pli_analysis.report.process.build`.

    Attributes:
        page: what is served.
        note: why the newest page could not be made, empty when it could.

    Raises:
        BadInput: when nothing can listen there.
    """

    def __init__(self, path: Path, port: int = 0, build: Build = process.build) -> None:
        self._path, self._build = path, build
        self.page, self.note = waiting(path.resolve().name), ""
        self._asked, self._tries, self._earliest = "", 0, 0.0
        self._making: threading.Thread | None = None
        self._ending = threading.Event()
        try:
            self._server = _Server((ADDRESS, port), _handler(self))
        except OSError as error:
            raise BadInput(f"--serve {port}: {error.strerror}; without a number it takes a free port") from None
        self._listening = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._listening.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self._server.server_port}/"

    def show(self, frame: Frame) -> None:
        """Have a page made, if a frame tells of something new, none is being made and the last one is a while ago."""
        if frame.checkpoint is None or (self._making is not None and self._making.is_alive()):
            return
        version = version_of(frame)
        if version != self._asked:
            self._asked, self._tries = version, TRIES
        if version != self.page.version and self._tries and time.monotonic() >= self._earliest:
            self._tries -= 1
            self._making = threading.Thread(target=self._make, args=(version,), daemon=True)
            self._making.start()

    def wait(self) -> None:
        """Wait for the page that is being made."""
        if self._making is not None:
            self._making.join()

    def close(self) -> None:
        """Listen no more, and make no more pages."""
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._listening.join()
        self.wait()

    def _make(self, version: str) -> None:
        began = time.monotonic()
        try:
            self.page, self.note = Page(version, self._build(self._path, version, self._ending)), ""
        except Exception as error:  # whatever it is, the page before is served on
            self.note = f"page: {first_line(error)}"
        ended = time.monotonic()
        self._earliest = ended + REST * (ended - began)


def version_of(frame: Frame) -> str:
    """Tells apart what a page is about: its newest checkpoint, evaluations and growth."""
    message = (frame.checkpoint, len(frame.evals), frame.growth, frame.finished)
    return hashlib.sha256(repr(message).encode()).hexdigest()[:16]


def waiting(name: str) -> Page:
    """What is served before the first page of a run is whole."""
    words = "The report comes here with the run's first checkpoint, as soon as it is made. This page waits for it."
    report = Report(name, "Nothing to show yet.", [Section("summary", "Summary", [words])])
    return Page("waiting", page.html(report, "waiting").encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that hangs up in the middle is no news, and a traceback would tear the view apart."""


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0
        """Seconds that a connection may be silent."""

        def do_GET(self) -> None:
            now = served.page
            pages = {"/": (now.html, "text/html"), "/version": (now.version.encode(), "text/plain")}
            if not self._is_ours():
                self._answer(403, b"this page is for 127.0.0.1 and localhost alone\n")
            elif self.path in pages:
                self._answer(200, *pages[self.path])
            else:
                self._answer(404, b"nothing here\n")

        def _none(self) -> None:
            self._answer(404 if self._is_ours() else 403, b"")

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _none  # noqa: N815

        def _is_ours(self) -> bool:
            """Whether it was asked for by a name of this machine. Any port: it may be led here from another machine."""
            return (self.headers.get("Host") or "").partition(":")[0].lower() in NAMES

        def _answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(code)
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **HEADERS}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            """What it calls itself."""
            return "pli"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: stderr belongs to the view."""

    return Handler
