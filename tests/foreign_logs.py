"""Logs that other programs write, and commands of `pli-analyze` that read them in this process."""

import json

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from typer.testing import CliRunner

from pli_analysis.cli import app
from pli_train.core.errors import BadInput


def log(folder, points):
    """An event file with one scalar a tag: tag → {step: value}."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.out.tfevents.1.host.1.0").open("wb") as file:
        writer = RecordWriter(file)
        for tag, values in points.items():
            for step, value in values.items():
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                writer.write(Event(wall_time=float(step), step=step, summary=summary).SerializeToString())
    return folder


def falling(start):
    return {step: start - step / 16 for step in range(0, 17, 4)}


def asked(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def rows(*words):
    done = asked(*words, "--format", "json")
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def refusal(*words):
    done = asked(*words)
    assert isinstance(done.exception, BadInput) and "\n" not in str(done.exception), done.output
    return str(done.exception)
