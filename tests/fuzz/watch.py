"""Audit hook that records what Python does while a file is read: open paths, import, unpickle, execute."""

import os
import sys

from pli_train.core import cache
from pli_train.core.anatomy import TABLES

RUNS_CODE = {"import", "pickle.find_class", "exec", "compile", "os.system", "subprocess.Popen", "socket.connect"}


SECONDS, MEMORY = 2.0, 2**30
"""The most that reading one broken file may take: seconds of work, and bytes."""


class Watch:
    """Record file accesses outside a folder, and execution of code, during a call."""

    def __init__(self):
        self.root, self.seen = None, []
        sys.addaudithook(self._record)

    def _record(self, event, args):
        if self.root is None:
            return
        if event in ("open", "os.scandir", "os.listdir") and isinstance(args[0], str | os.PathLike):
            path = os.path.realpath(args[0])
            if not path.startswith((self.root, str(TABLES), os.path.realpath(cache.root()))):
                self.seen.append((event, path))
        elif event in RUNS_CODE:
            self.seen.append((event, str(args[0])[:200]))

    def during(self, root, work):
        self.root, self.seen = os.path.realpath(root), []
        try:
            return work()
        finally:
            self.root = None


class Blind:
    """Record nothing. Used first, while libraries do their lazy imports."""

    seen = ()

    def during(self, root, work):
        return work()
