import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from veilcam.camera.errors import SinkError, SourceError
from veilcam.camera.head_model import EXPRESSION_FIELDS
from veilcam.camera.loop import Loop, percentiles
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.types import Codes, Frame, Head, HeadCode, Patches, Scene

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
        self.frame_skin, self.late, self.frame = {}, frozenset(), None

    def begin(self, frame):
        self.frame = frame
        return Scene(size_hw=frame.bgr.shape[:2], heads=())

    def finish(self):
        frame = self.frame
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


class StallingSource:
    """A live source that gives one frame taken at 100 s, stalls twice, and ends."""

    fps, size_hw, is_live = 30.0, SIZE_HW, True

    def __init__(self):
        bgr = np.full((*SIZE_HW, 3), 50, np.uint8)
        self.script = [Frame(bgr, 0, 100.0), SourceError("stall"), SourceError("stall"), None]

    def read(self):
        item = self.script.pop(0)
        if isinstance(item, SourceError):
            raise item
        return item


@pytest.mark.parametrize(("source", "start_s"), [(SilentSource(2), 0.0), (StallingSource(), 100.0)])
def test_blanks_of_a_silent_camera_keep_its_own_clock(source, start_s):
    sink = MemorySink()
    make_loop(source=source, sink=sink, analyser=FakeAnalyser(first=99)).run()
    times = [f.time_s for f in sink.frames if f.reason]
    assert len(times) == 2
    assert times == sorted(times)
    assert all(start_s <= time_s < start_s + 60.0 for time_s in times)


class KnowingAnalyser(FakeAnalyser):
    """Knows a head before it is found, at first where it is not."""

    def __init__(self, moves=False):
        super().__init__()
        self.moves = moves
        self.order = []

    def begin(self, frame):
        scene = super().begin(frame)
        self.order.append("begin")
        self.frame_skin = {0: (120.0, 150.0, 190.0)}
        box = np.array([[1.0, 1], [2, 1], [2, 2]])
        return replace(scene, heads=(replace(make_head(x=50.0), hull_xy=box),))

    def finish(self):
        self.order.append("finish")
        self.late = frozenset({0}) if self.moves else frozenset()
        return super().finish()


@pytest.mark.parametrize("moves", [False, True])
def test_known_heads_are_painted_while_the_search_goes_on_and_again_if_they_moved(moves):
    analyser, sink, painted = KnowingAnalyser(moves), MemorySink(), []

    def generator(codes):
        analyser.order.append("paint")
        painted.extend(head.center_xy for head in codes.heads)
        return fake_generator(codes)

    report = make_loop(analyser=analyser, generator=generator, sink=sink).run()
    once = ["begin", "paint", "finish"]
    assert analyser.order == ([*once, "paint"] if moves else once) * 6
    assert painted == ([(50.0, 20.0), (20.0, 20.0)] if moves else [(50.0, 20.0)]) * 6
    # what is hidden comes from the search in both cases
    assert all(f.bgr.max() < RAW and not f.reason for f in sink.frames)
    assert report.heads_replaced == 6


def test_a_head_that_was_let_go_is_painted_no_more():
    class Losing(KnowingAnalyser):
        def finish(self):
            return replace(super().finish(), heads=())

    sink = MemorySink()
    report = make_loop(analyser=Losing(), sink=sink, source=make_source(2)).run()
    assert report.heads_replaced == 0
    assert not any(f.reason for f in sink.frames)


class DoubtingAnalyser(FakeAnalyser):
    """The head is there, but a second look never found a face in it."""

    def finish(self):
        scene = super().finish()
        return replace(scene, heads=tuple(replace(h, is_doubted=True) for h in scene.heads))


@pytest.mark.parametrize(
    ("analyser", "is_painted"), [(FakeAnalyser, True), (DoubtingAnalyser, False)]
)
def test_what_is_doubted_is_hidden_but_gets_no_stand_in(analyser, is_painted):
    green = np.zeros((16, 16, 4), np.uint8)
    green[..., 1:4:2] = 255
    frames = np.full((2, *SIZE_HW, 3), RAW, np.uint8)
    frames[:, 12:28, 12:28] = 7  # what must not be seen
    sink = MemorySink()
    source = ArraySource(list(frames))
    paint = lambda codes: Patches(bgra=tuple(green for _ in codes.heads))  # noqa: E731
    Loop(source, analyser(), FakeEncoder(), paint, sink).run()
    for frame in sink.frames:
        assert frame.reason == ""
        assert (frame.bgr[20, 20, 0] < 60) == is_painted
        assert not (frame.bgr == 7).any()


class BrokenBegin(FakeAnalyser):
    begin = broken

    def finish(self):
        raise AssertionError("finish must not follow a begin that failed")


def test_a_fault_at_the_begin_of_analysis_gives_a_blank():
    sink = MemorySink()
    report = make_loop(analyser=BrokenBegin(), sink=sink).run()
    assert all(f.reason.startswith("analyse failed: RuntimeError") for f in sink.frames)
    assert report.faults["analyse"] == report.frames_blank == 6


def test_a_fault_of_the_generator_still_lets_the_search_end():
    analyser = KnowingAnalyser()
    make_loop(analyser=analyser, generator=broken).run()
    assert analyser.order == ["begin", "finish"] * 6


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
