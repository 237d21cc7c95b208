import json
import subprocess
import sys

import numpy as np
import pytest

from veilcam.camera.errors import SinkError, SourceError
from veilcam.camera.head_model import EXPRESSION_FIELDS
from veilcam.camera.loop import Loop, percentiles
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.types import Codes, Head, HeadCode, Patches, Scene

SIZE_HW = (48, 64)
RAW = 200


def hull(x, y, radius=14.0):
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def make_head(track_id=0, x=20.0, y=20.0):
    return Head(
        track_id=track_id,
        center_xy=(x, y),
        size_px=20.0,
        yaw_deg=0.0,
        pitch_deg=0.0,
        roll_deg=0.0,
        expression=dict.fromkeys(EXPRESSION_FIELDS, 0.0),
        hull_xy=hull(x, y),
        is_predicted=False,
    )


class FakeAnalyser:
    """One head from frame `first` on."""

    def __init__(self, first=0, fails=()):
        self.first, self.fails = first, fails
        self.frame_skin = {}

    def __call__(self, frame):
        if frame.index in self.fails:
            raise RuntimeError("detector broke")
        heads = (make_head(),) if frame.index >= self.first else ()
        self.frame_skin = {h.track_id: (120.0, 150.0, 190.0) for h in heads}
        return Scene(size_hw=frame.bgr.shape[:2], heads=heads)


class FakeEncoder:
    def encode(self, scene, skin_bgr):
        heads = tuple(
            HeadCode(
                track_id=h.track_id,
                levels=(0,),
                values=np.zeros(1, np.float32),
                latent=np.zeros(4, np.float32),
                center_xy=h.center_xy,
                size_px=h.size_px,
                roll_deg=h.roll_deg,
                skin_bgr=skin_bgr[h.track_id],
                hull_xy=h.hull_xy,
            )
            for h in scene.heads
        )
        return Codes(size_hw=scene.size_hw, heads=heads, blank_reason=scene.blank_reason)


def fake_generator(codes):
    return Patches(bgra=tuple(np.zeros((16, 16, 4), np.uint8) for _ in codes.heads))


def make_source(num_frames=6):
    bgr = np.full((*SIZE_HW, 3), 50, np.uint8)
    bgr[12:29, 12:29] = RAW  # the secret that must never come out
    return ArraySource([bgr] * num_frames)


def make_loop(*, analyser=None, encoder=None, generator=fake_generator, sink=None, **options):
    source = options.pop("source", None) or make_source()
    analyser, encoder = analyser or FakeAnalyser(), encoder or FakeEncoder()
    return Loop(source, analyser, encoder, generator, sink or MemorySink(), **options)


def broken(*_args):
    raise RuntimeError("broken")


def bad_patch(codes):
    return Patches(bgra=())


class BrokenEncoder:
    encode = broken


def test_every_frame_comes_out_once_in_order_with_its_head_replaced():
    sink = MemorySink()
    report = make_loop(sink=sink).run().to_json()
    assert [f.index for f in sink.frames] == list(range(6))
    assert all(f.bgr.max() < RAW for f in sink.frames)
    assert (report["frames_in"], report["frames_out"], report["heads_replaced"]) == (6, 6, 6)
    assert (report["people_seen"], report["frames_blank"], report["faults"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("parts", "stage"),
    [
        ({"analyser": FakeAnalyser(fails=range(6))}, "analyse"),
        ({"encoder": BrokenEncoder()}, "encode"),
        ({"generator": broken}, "generate"),
        ({"generator": bad_patch}, "compose"),
    ],
)
@pytest.mark.parametrize("delay_frames", [0, 2])
def test_a_fault_at_any_hop_gives_a_blank_and_is_counted(parts, stage, delay_frames):
    sink = MemorySink()
    report = make_loop(sink=sink, delay_frames=delay_frames, **parts).run().to_json()
    assert len(sink.frames) == 6
    assert all(f.reason.startswith(stage) and np.ptp(f.bgr) == 0 for f in sink.frames)
    assert report["frames_blank"] == report["faults"] == report["faults_by_stage"][stage] == 6


def test_the_loop_recovers_by_itself():
    sink = MemorySink()
    make_loop(analyser=FakeAnalyser(fails=(2,)), sink=sink).run()
    assert [bool(f.reason) for f in sink.frames] == [False, False, True, False, False, False]


@pytest.mark.parametrize("delay_frames", [0, 1, 2, 3])
def test_a_head_found_late_reaches_back_by_the_delay(delay_frames):
    sink = MemorySink()
    make_loop(analyser=FakeAnalyser(first=3), sink=sink, delay_frames=delay_frames).run()
    leaked = [f.bgr.max() >= RAW for f in sink.frames]
    assert leaked == [i < 3 - delay_frames for i in range(6)]


def test_a_delay_out_of_range_is_refused():
    with pytest.raises(ValueError, match="delay_frames=4"):
        make_loop(delay_frames=4)


def test_max_frames_stops_and_still_hands_out_what_waits():
    sink = MemorySink()
    report = make_loop(sink=sink, delay_frames=2).run(4)
    assert (report.frames_in, report.frames_out, len(sink.frames)) == (4, 4, 4)


def test_the_report_is_plain_json_with_the_promised_keys():
    loop = make_loop(bundle_sha256="ab")
    value = json.loads(json.dumps(loop.run().to_json()))
    promised = {
        "frames_in", "frames_out", "frames_dropped", "frames_blank", "faults", "people_seen",
        "heads_replaced", "mode", "strength", "bundle_sha256", "latency_ms", "barriers",
    }  # fmt: skip
    assert promised <= set(value)
    assert set(value["latency_ms"]["total"]) == {"p50", "p95", "p99", "max"}
    assert all(len(values) == 6 for values in loop.timings.values())


class SilentSource:
    """A live source that fails a few times, then gives one frame."""

    fps, size_hw = 30.0, SIZE_HW

    def __init__(self, num_faults, *, is_live=True):
        self.num_faults, self.is_live = num_faults, is_live
        self._inner = make_source(1)

    def read(self):
        if self.num_faults:
            self.num_faults -= 1
            raise SourceError("no picture")
        return self._inner.read()


def test_a_camera_that_stalls_shows_blanks_and_goes_on():
    sink = MemorySink()
    report = make_loop(source=SilentSource(3), sink=sink).run()
    assert [bool(f.reason) for f in sink.frames] == [True, True, True, False]
    assert report.faults["read"] == 3


@pytest.mark.parametrize("source", [SilentSource(10**6), SilentSource(1, is_live=False)])
def test_a_source_that_stays_silent_ends_the_run(source):
    with pytest.raises(SourceError):
        make_loop(source=source).run()


def test_a_sink_that_fails_ends_the_run():
    class FullSink(MemorySink):
        def write(self, frame):
            raise SinkError("disk full")

    with pytest.raises(SinkError):
        make_loop(sink=FullSink()).run()


def test_percentiles_are_ordered():
    p = percentiles([5.0, 1.0, 3.0])
    assert p["p50"] <= p["p95"] <= p["p99"] <= p["max"] == 5.0


def test_the_camera_side_imports_no_jax():
    names = "veilcam.camera.loop, veilcam.camera.analysis"
    code = f"import {names}, sys; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
