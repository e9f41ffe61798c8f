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
"""Host names that requests may use; others are refused to prevent DNS rebinding."""
REST = 5.0
"""Pause between two page builds, in multiples of the last build time: building uses at most a sixth of a core."""
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
    """A complete page and its version."""

    version: str
    html: bytes


class Served:
    """Serve the report of a run until closed. Each page is served until the next one is complete.

    Args:
        path: folder of the run.
        port: port to listen on; 0 for any free port.
        build: function that builds a page, see `pli_analysis.report.process.build`.

    Attributes:
        page: the page being served.
        note: why the newest page could not be built; empty if it could.

    Raises:
        BadInput: when the port cannot be used.
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
            raise BadInput(f"--serve {port}: {error.strerror}; omit the number to use a free port") from None
        self._listening = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._listening.start()

    @property
    def url(self) -> str:
        """URL of the page."""
        return f"http://{ADDRESS}:{self._server.server_port}/"

    def show(self, frame: Frame) -> None:
        """Start building a page, if the frame has news, no page is being built and the pause is over."""
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
        """Wait until the page being built is complete."""
        if self._making is not None:
            self._making.join()

    def close(self) -> None:
        """Stop listening and building pages."""
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._listening.join()
        self.wait()

    def _make(self, version: str) -> None:
        began = time.monotonic()
        try:
            self.page, self.note = Page(version, self._build(self._path, version, self._ending)), ""
        except Exception as error:  # on any failure the previous page is still served
            self.note = f"page: {first_line(error)}"
        ended = time.monotonic()
        self._earliest = ended + REST * (ended - began)


def version_of(frame: Frame) -> str:
    """Return a hash of what a page depends on: newest checkpoint, evaluations and growth."""
    state = (frame.checkpoint, len(frame.evals), frame.growth, frame.finished)
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def waiting(name: str) -> Page:
    """Return the page that is served before the first report is complete."""
    words = "The report appears here after the run's first checkpoint. This page reloads by itself."
    report = Report(name, "Nothing to show yet.", [Section("summary", "Summary", [words])])
    return Page("waiting", page.html(report, "waiting").encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: browsers may close connections early, and a traceback would break the display."""


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0
        """Seconds until an idle connection is closed."""

        def do_GET(self) -> None:
            now = served.page
            pages = {"/": (now.html, "text/html"), "/version": (now.version.encode(), "text/plain")}
            if not self._is_ours():
                self._answer(403, b"this page is served only as 127.0.0.1 or localhost\n")
            elif self.path in pages:
                self._answer(200, *pages[self.path])
            else:
                self._answer(404, b"not found\n")

        def _none(self) -> None:
            self._answer(404 if self._is_ours() else 403, b"")

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _none  # noqa: N815

        def _is_ours(self) -> bool:
            """Return whether the request uses a name of this machine. Any port may be used, for forwarded ports."""
            return (self.headers.get("Host") or "").partition(":")[0].lower() in NAMES

        def _answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(code)
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **HEADERS}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            """Return the name of the server."""
            return "pli"

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: stderr is used by the display."""

    return Handler
