"""Event files record by record: framed as TensorBoard does, encoded by its own protobuf."""

import struct

import numpy as np
from google_crc32c import value as crc

from pli_analysis.scalars import records


def framed(payload):
    length = struct.pack("<Q", len(payload))
    return length + summed(length) + payload + summed(payload)


def summed(part):
    return records.masked(np.array([crc(part)], dtype=np.uint32)).tobytes()


def event(step, values, wall_time=1.0, **more):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    message = [Summary.Value(tag=tag, simple_value=value) for tag, value in values]
    return Event(step=step, wall_time=wall_time, summary=Summary(value=message), **more).SerializeToString()
