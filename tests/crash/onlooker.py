"""Somebody who reads at runs all the time while they are written, killed and resumed."""

import threading
import time

from pli_analysis import api
from pli_analysis.metrics.drift.drift import COLUMNS
from pli_analysis.runs.opening import open_run
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

NOT_YET = ("no such folder", "not a run", f"has no {run_folder.LINEAGE} yet", "holds no whole checkpoint")
"""What a reader may be told before a run has its first checkpoint."""
CLOCKS = (run_folder.SECONDS, run_folder.TOKENS_PER_SECOND)


class Story:
    """What a run tells: names of checkpoints, lineage, scalars without clocks, drift."""

    def __init__(self, folder):
        run = open_run(folder)
        self.lineage = run.lineage
        self.checkpoints = [str(checkpoint.name) for checkpoint in run.checkpoints]
        self.scalars = {
            (tag, step): value
            for tag, points in run.scalars.values.items()
            if tag not in CLOCKS
            for step, (_, value) in points.items()
        }
        # What depends on the checkpoint alone: the way to it is another when some are thinned out.
        drift = api.drift(run, "head")[COLUMNS[: COLUMNS.index("part_type")]]
        self.drift = {(row[0], row[2]): row for row in drift.itertuples(index=False, name=None)}

    def contradicts(self, final, thinned=False):
        """Where this is not the beginning of `final`; None when it is. When `thinned`, checkpoints may lack."""
        expected = final.checkpoints[: len(self.checkpoints)]
        if thinned:
            expected = [name for name in final.checkpoints if name in self.checkpoints]
        if self.checkpoints != expected:
            return f"checkpoints {self.checkpoints}"
        if self.lineage.events != final.lineage.events[: len(self.lineage.events)]:
            return f"events {self.lineage.events}"
        for message, at_end in ((self.scalars, final.scalars), (self.drift, final.drift)):
            for key, value in message.items():
                if not _same(value, at_end.get(key)):
                    return f"{key}: {value} and finally {at_end.get(key)}"
        return None


class Onlooker(threading.Thread):
    """Reads a run over and over until told to stop.

    Attributes:
        reads: how often it saw something.
        early: how often it was told that there is nothing yet.
        complaints: what it should not have seen.
    """

    def __init__(self, folder, final, thinned=False):
        super().__init__(daemon=True)
        self._folder, self._final, self._thinned, self._done = folder, final, thinned, threading.Event()
        self.reads, self.early, self.complaints, self.lengths = 0, 0, [], set()

    def run(self):
        while not self._done.is_set():
            self._read()
            time.sleep(0.01)

    def stop(self):
        self._done.set()
        self.join()
        self._read()

    def _read(self):
        try:
            story = Story(self._folder)
        except BadInput as message:
            self.early += 1
            if self.reads or not any(known in str(message) for known in NOT_YET):
                self.complaints.append(f"after {self.reads} looks: {message}")
            return
        except Exception as error:
            self.complaints.append(repr(error))
            return
        self.reads += 1
        self.lengths.add(len(story.checkpoints))
        if found := story.contradicts(self._final, self._thinned):
            self.complaints.append(found)


def _same(one, other):
    """Equal, NaN to itself too."""
    return repr(one) == repr(other)
