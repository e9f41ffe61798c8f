"""`pli-train` and `pli-analyze` for shell lines: programs in a folder, to be put first on PATH, that start in no time.

Each of the two hands its words, environment, folder and streams to this process over a Unix socket. This process runs
the command in a fork of a warm one (`tests.warm`) and answers with the exit code. Workers of a study are forks, too.
"""

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

from tests.warm import LONGEST, PACKAGES, Warm

PROGRAM = """\
#!{python} -IS
import json, os, socket, sys
request = {{"program": {program!r}, "words": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
    channel.connect({address!r})
    socket.send_fds(channel, [json.dumps(request).encode()], [0, 1, 2])
    sys.exit(json.loads(channel.recv(64)))
"""


class WarmPrograms:
    """Writes the programs into a folder and answers them until this process ends.

    Args:
        folder: an empty folder; its path must be short enough for a socket in it.
        environment: variables that libraries read when they are imported.
    """

    def __init__(self, folder: Path, **environment):
        self._warm, self._turn = Warm(**environment), threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(folder / "socket"))
        self._socket.listen()
        for program in PACKAGES:
            text = PROGRAM.format(python=sys.executable, program=program, address=str(folder / "socket"))
            (folder / program).write_text(text)
            (folder / program).chmod(0o755)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            asked, _ = self._socket.accept()
            threading.Thread(target=self._answer, args=(asked,), daemon=True).start()

    def _answer(self, asked):
        with asked:
            message, streams, _, _ = socket.recv_fds(asked, LONGEST, 3)
            request = json.loads(message)
            program, words = request.pop("program"), request.pop("words")
            with self._turn:
                child = self._warm.start(program, *words, streams=streams, forks=True, **request)
            for stream in streams:
                os.close(stream)
            while child.running():  # the warm process must not wait for one command while another one is to start
                time.sleep(0.005)
            with self._turn:
                code = child.wait()
            asked.send(json.dumps(code if code >= 0 else 128 - code).encode())
