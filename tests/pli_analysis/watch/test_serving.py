"""The report as a page of this machine: what is served, to whom, and when it becomes another."""

import base64
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pli_analysis.report import page, process
from pli_analysis.report.parts import Report
from pli_analysis.watch import serving
from pli_analysis.watch.frame import Frame
from pli_analysis.watch.serving import Served, version_of
from pli_analysis.watch.watcher import RunWatcher
from pli_train.core.errors import BadInput, PliError
from tests.commands import call, heeds_ctrl_c, refused
from tests.warm import ROOT

FRAME = Frame("run", checkpoint="checkpoint-1")
NEWER = replace(FRAME, checkpoint="checkpoint-2")
HOSTILE = "<script>alert(1)<∕script>\"'&amp;‮"


def named(path, version, ending):
    """A page that is made at once."""
    return f"page {version}".encode()


@pytest.fixture
def served(tmp_path):
    with closing(Served(tmp_path, build=named)) as found:
        yield found


def address_of(server):
    """(host, port) of where it listens."""
    url = urllib.parse.urlsplit(server.url)
    return url.hostname, url.port


def ask(server, path="/", method="GET", **headers):
    """(status, body, headers) of an answer."""
    connection = http.client.HTTPConnection(*address_of(server), timeout=20)
    with closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())


def test_the_page_and_its_version_become_others_with_something_new(served, monkeypatch):
    monkeypatch.setattr(serving, "REST", 0)
    assert ask(served, "/version")[1] == "waiting"
    assert "first checkpoint" in ask(served)[1]
    served.show(Frame("run"))
    served.wait()
    assert ask(served, "/version")[1] == "waiting", "there is nothing to tell of yet"
    for frame in (FRAME, NEWER, replace(NEWER, total=1, step=1)):
        served.show(frame)
        served.wait()
        assert ask(served, "/version")[1] == version_of(frame)
        assert ask(served)[1] == f"page {version_of(frame)}"
    assert len({version_of(frame) for frame in (FRAME, NEWER, replace(NEWER, total=1, step=1))}) == 3
    assert version_of(replace(NEWER, rate=3.0, left=1.0, notes=("x",))) == version_of(NEWER)


def test_the_page_before_is_served_until_the_next_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "REST", 0)
    going, made = threading.Event(), []

    def slow(path, version, ending):
        made.append(version)
        if len(made) > 1:
            going.wait(20)
        return version.encode()

    with closing(Served(tmp_path, build=slow)) as server:
        server.show(FRAME)
        server.wait()
        for _ in range(3):
            server.show(NEWER)
            assert ask(server)[1] == ask(server, "/version")[1] == version_of(FRAME)
        going.set()
        server.wait()
        assert ask(server)[1] == version_of(NEWER)
    assert made == [version_of(FRAME), version_of(NEWER)]


def test_making_pages_rests_between_them(tmp_path):
    made = []

    def slow(path, version, ending):
        made.append(time.monotonic())
        time.sleep(0.1)
        return b""

    with closing(Served(tmp_path, build=slow)) as server:
        server.show(FRAME)
        server.wait()
        ended = time.monotonic()
        while len(made) < 2:
            server.show(NEWER)
            time.sleep(0.01)
    assert made[1] - ended >= 0.4


def test_a_page_that_cannot_be_made_is_reported_in_a_line_and_not_tried_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "REST", 0)
    tries, room = [], threading.Event()

    def never(path, version, ending):
        if room.is_set():
            return named(path, version, ending)
        tries.append(version)
        raise BadInput("no room\nat all")

    with closing(Served(tmp_path, build=never)) as server:
        for _ in range(9):
            server.show(FRAME)
            server.wait()
        assert (server.note, len(tries)) == ("page: no room", 3)
        assert ask(server, "/version")[1] == "waiting"
        room.set()
        server.show(NEWER)
        server.wait()
        assert (server.note, ask(server, "/version")[1]) == ("", version_of(NEWER))


@pytest.mark.parametrize("path", ["/x", "/version/", "/index.html", "/../run.json", "/%2e%2e/run.json", "/?", "*"])
def test_nothing_else_is_there(served, path):
    assert ask(served, path)[0] == 404


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_get_is_answered(served, method):
    assert ask(served, "/", method)[:2] == (404, "")


def test_a_stranger_s_name_for_this_machine_is_refused(served):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", "", "[::1"):
        for path in ("/", "/version", "/x"):
            status, body, _ = ask(served, path, Host=host)
            assert status == 403 and "page" not in body.partition("this page")[0]
        assert ask(served, "/", "POST", Host=host)[0] == 403
    for host in ("localhost", "LOCALHOST:9", "127.0.0.1", f"127.0.0.1:{address_of(served)[1]}"):
        assert ask(served, Host=host)[0] == 200
    with socket.create_connection(address_of(served)) as bare:
        bare.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 403 " in bare.recv(100)


def test_it_is_for_this_machine_alone_and_kept_by_nobody(served):
    with pytest.raises(ConnectionRefusedError):  # which who listens at every address would take
        socket.create_connection(("127.0.0.2", address_of(served)[1]), timeout=5)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", served.url)
    status, _, headers = ask(served)
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert "Python" not in headers["Server"]


def test_who_hangs_up_in_the_middle_is_no_news(served, capfd):
    for said in (b"", b"GET", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\xff\r\n\r\n"):
        with socket.create_connection(address_of(served)) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            gone.sendall(said)
    time.sleep(0.2)
    assert ask(served)[0] == 200
    assert capfd.readouterr().err == ""


def test_it_ends_on_close_and_so_does_what_it_makes(tmp_path):
    server = Served(tmp_path, build=lambda path, version, ending: ending.wait(60) and b"")
    server.show(FRAME)
    address, began = address_of(server), time.monotonic()
    server.close()
    assert time.monotonic() - began < 20
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_a_port_that_is_taken_is_reported(served, runs):
    port = address_of(served)[1]
    with pytest.raises(BadInput, match=f"--serve {port}: .*in use"):
        Served(Path("run"), port, named)
    refused(call("pli-analyze", "watch", runs["gpt2"], "--serve", port), "in use")


# --- the page itself ------------------------------------------------------------------------------------------------


def test_a_served_page_may_ask_its_server_and_nothing_else():
    text = page.html(Report("run", "", []), "v1")
    policy = re.search(r'Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    poll = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]
    assert "/version" in poll
    digest = base64.b64encode(hashlib.sha256(poll.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy and policy.endswith("; connect-src 'self'")
    assert '<meta name="version" content="v1">' in text
    still = page.html(Report("run", "", []))
    assert "connect-src" not in still and "/version" not in still and 'name="version"' not in still


def test_a_run_s_name_is_no_markup():
    text = serving.waiting(HOSTILE).html.decode()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_a_new_checkpoint_makes_a_new_page_in_a_process_of_its_own(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "REST", 0)
    builds = iter([named, process.build])
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    before = {str(path) for path in run.rglob("*")}
    (run / "checkpoint-3").rename(tmp_path / "later")
    with closing(RunWatcher(run)) as watched, closing(Served(run, build=lambda *asked: next(builds)(*asked))) as server:
        server.show(watched.poll())
        server.wait()
        first = ask(server, "/version")[1]
        (tmp_path / "later").rename(run / "checkpoint-3")
        server.show(watched.poll())
        server.wait()
        second, text = ask(server, "/version")[1], ask(server)[1]
        assert server.note == "" and len({first, second, "waiting"}) == 3
        assert f'<meta name="version" content="{second}">' in text and "over 3 steps" in text
    assert {str(path) for path in run.rglob("*")} == before


def test_a_process_that_makes_a_page_says_why_it_cannot_and_can_be_stopped(small_run, tmp_path):
    ending = threading.Event()
    with pytest.raises(PliError, match="nowhere: no such folder"):
        process.build(tmp_path / "nowhere", "v", ending)
    ending.set()
    began = time.monotonic()
    with pytest.raises(PliError):
        process.build(small_run, "v", ending)
    assert time.monotonic() - began < 5


def test_the_command_serves_until_ctrl_c(small_run):
    command = [sys.executable, "-m", "pli_analysis.cli", "watch", "--serve", str(small_run)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, env=environment, preexec_fn=heeds_ctrl_c)
    url = process.stdout.readline().strip()
    port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", url)[1])
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/version")
        assert connection.getresponse().status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.browser
def test_an_open_page_loads_itself_anew_and_stays_where_it_was(chromium, small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "REST", 0)

    def build(path, version, ending):
        return page.html(whole, version).encode()

    from pli_analysis.report import content
    from pli_analysis.runs.opening import open_run

    whole = content.build(open_run(small_run))
    with closing(Served(tmp_path, build=build)) as server:
        server.show(FRAME)
        server.wait()
        tab, outputs = chromium.new_page(), []
        tab.on("console", lambda message: outputs.append(message.text))
        tab.on("pageerror", lambda error: outputs.append(str(error)))
        tab.goto(server.url)
        tab.wait_for_selector("section#loss .main-svg")
        tab.locator("#loss summary, section#loss summary").first.press("Enter")
        tab.locator("#theme").press("Enter")
        theme = tab.evaluate("document.documentElement.dataset.theme")
        tab.evaluate("scrollTo(0, 1500)")
        position = tab.evaluate("scrollY")
        assert position > 1000
        server.show(NEWER)
        version = version_of(NEWER)
        tab.wait_for_selector(f'meta[name=version][content="{version}"]', state="attached", timeout=60000)
        tab.wait_for_selector("section#loss .main-svg")
        assert tab.evaluate("scrollY") == pytest.approx(position, abs=2)
        assert tab.evaluate("document.documentElement.dataset.theme") == theme
        assert tab.evaluate("document.querySelectorAll('details[open]').length") == 1
        assert outputs == []
        tab.close()
