"""How much the second process costs: from a picture handed to the ring to the same at the sink."""

import os
import time
from collections import deque
from typing import Any

import numpy as np

from veilcam.camera import control
from veilcam.camera.errors import VeilcamError
from veilcam.camera.link import Link
from veilcam.camera.notes import open_shared
from veilcam.camera.process import Process, python_command
from veilcam.camera.report import percentiles
from veilcam.camera.settings import Settings
from veilcam.camera.types import _MAKER, SafeFrame

_START_S = 30.0


def measure_crossing(
    size_hw: tuple[int, int], *, num_frames: int = 150, fps: float = 30.0
) -> dict[str, dict[str, float]]:
    """Latencies of the ring and the channel with a real publish process behind them.

    The pictures come at `fps`, as a camera's would: a process that is asked all the time wakes up
    sooner than one that waits.

    Args:
        size_hw: Height and width of the pictures in pixels.
        num_frames: Pictures to measure.
        fps: Pictures per second.

    Returns:
        `cross` (all of it) and `copy` (the one copy, in this process), each p50, p95, p99 and max
        in milliseconds.
    """
    from veilcam.camera.ring import Geometry, RingWriter

    shared = open_shared()
    inherited = (shared.publish_end, shared.ring_read_only, shared.hold)
    publish = Process(python_command("veilcam.camera.publish"), inherited)
    link = Link(os.dup(shared.capture_end))
    try:
        publish.link.send(control.Setup(Settings(source="demo", sink="null").to_values()))
        publish.link.send(control.Begin(1, 0, 0))
        geometry = Geometry(*size_hw)
        writer = RingWriter(shared.ring, shared.hold_read_only, geometry, epoch=1)
        link.send(control.Ready(1, *size_hw, fps, False))
        _expect(link, control.Go, publish)
        link.send(control.Started(1))
        copy_ms = _send_all(writer, link, publish, size_hw, num_frames, fps)
        link.send(control.Ended(1))
        values = _last_report(publish)
    finally:
        publish.close()
        link.close()
        shared.close()
    return {"cross": values["latency_ms"]["cross"], "copy": percentiles(copy_ms)}


def _send_all(
    writer: Any, link: Link, publish: Process, size_hw: tuple[int, int], num_frames: int, fps: float
) -> list[float]:
    noise = np.random.default_rng(0)
    pictures = [noise.integers(0, 256, (*size_hw, 3), np.uint8) for _ in range(3)]
    copy_ms: list[float] = []
    due_s = time.perf_counter()
    for index in range(num_frames):
        due_s += 1 / fps
        time.sleep(max(0.0, due_s - time.perf_counter()))
        frame = SafeFrame(pictures[index % 3], index, index / fps, "", _MAKER)
        start_ns = time.perf_counter_ns()
        slot, seq = writer.write(frame)
        copy_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
        link.send(control.Wrote(1, slot, seq))
        _expect(link, control.Taken, publish)
    return copy_ms


def _expect(link: Link, kind: type[control.Message], publish: Process) -> None:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s and publish.is_alive():
        if link.wait(0.1) and isinstance(link.receive(), kind):
            return
    raise VeilcamError(f"publish does not answer ({publish.how_it_ended()})")


def _last_report(publish: Process) -> dict[str, Any]:
    found: deque[dict[str, Any]] = deque(maxlen=1)
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        publish.link.wait(0.1)
        for message in publish.messages():
            if isinstance(message, control.Report):
                found.append(message.values)
            if isinstance(message, control.Done) and found:
                return found[0]
    raise VeilcamError("publish gave no report")
