"""Writes tests/golden/telemetry/events.tfevents with the `tensorboard` package, and reads it back with its reader.

    pip install tensorboard && python tools/golden/events.py
    python tools/golden/events.py FILE    # only read a file, for example a run's own
"""

import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(wall_time, step, **values):
    values = [Summary.Value(tag=tag.replace("__", "/"), simple_value=value) for tag, value in values.items()]
    return Event(wall_time=wall_time, step=step, summary=Summary(value=values))


def write(path):
    events = [
        Event(wall_time=1.5e9, file_version="brain.Event:2"),
        scalars(1.5e9 + 0.25, 1, loss=0.1, reward__mean=-2.5),
        scalars(1.5e9 + 0.5, 300, loss=1e-30),
    ]
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString(deterministic=True))


def read(path):
    # The reader checks both CRCs of each record.
    for raw in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(raw)
        print(event.step, event.file_version, {v.tag: v.simple_value for v in event.summary.value})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read(Path(sys.argv[1]))
    else:
        golden = Path(__file__).parents[2] / "tests/golden/telemetry/events.tfevents"
        golden.parent.mkdir(parents=True, exist_ok=True)
        write(golden)
        read(golden)
