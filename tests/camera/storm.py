"""Faults at every hop of the real processes, with pictures that give themselves away.

Test code: `scripts/fault_storm.py` and `test_faults.py` run it. Started as a program it is the
capture or the publish process with parts that fail on purpose:
`storm.py capture|publish OPTIONS-AS-JSON` and what the supervisor appends.

Its raw pictures and who looks for them: `sentinel.py`.
"""

import ctypes
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # as a program and as a module alike
from sentinel import COLOURS_BGR, HEAD_PX, SIZE_HW, raw_picture
from storm_sink import open_storm_sink

FPS = 300.0
QUIET_FRAMES = 25  # after a start nothing fails until the picture was good again
QUIET_LIFE_FRAMES = 450  # and nothing deadly until there can be a spare again

IN_FRAME = (
    "source.clock_nan", "source.clock_jump", "source.size", "source.unplugged",
    "detector.raise", "detector.memory", "detector.nan",
    "detector.shape", "tracker.duplicate", "tracker.nan_place", "tracker.zero_size",
    "code.raise", "code.nan", "code.missing_head", "code.garbage",
    "generator.raise", "generator.none", "generator.garbage", "generator.shape",
    "generator.float", "generator.too_few", "compose.raise", "ring.wrong_slot", "ring.wrong_seq",
    "ring.torn", "control.old_epoch", "signal.storm",
)  # fmt: skip
IN_LIFE = (  # these cost capture its life
    "source.raise", "source.garbage", "source.hang", "detector.hang", "generator.hang",
    "detector.none", "detector.garbage",
    "generator.exit", "compose.raw", "compose.none", "compose.segfault", "ring.size",
    "ring.killed_while_writing",
    "control.garbage", "control.flood", "control.wrong_role", "code.memory_error_outside",
)  # fmt: skip


class Weather:
    """Decides what fails next, and counts what did."""

    def __init__(self, options, epoch, salt):
        import random

        self.random = random.Random(f"{options['seed']}:{epoch}:{salt}")
        self.options, self.injected = options, Counter()
        self.current, self.left_quiet = "", QUIET_FRAMES
        self.died = {}

    def draw(self):
        """The fault of the next frame, `` for none."""
        self.left_quiet -= 1
        self.current = ""
        if self.left_quiet < 0:
            dice = self.random.random()
            if (
                dice < self.options["life_rate"]
                and self.left_quiet < QUIET_FRAMES - QUIET_LIFE_FRAMES
            ):
                self.current = self.random.choice(IN_LIFE)
            elif dice < self.options["frame_rate"]:
                self.current = self.random.choice(IN_FRAME)
        return self.current

    def strikes(self, name):
        """True where the fault of this frame is `name`; it then counts as injected."""
        if self.current != name:
            return False
        self.current = ""
        self.injected[name] += 1
        if name in IN_LIFE:
            self.died[name] = time.monotonic()
        return True


# --- capture ---------------------------------------------------------------------------------


class Camera:
    """A grabber whose camera fails."""

    fps, name = FPS, "storm"

    def __init__(self, weather):
        self.weather, self.index, self.next_s = weather, 0, time.monotonic()

    def grab(self):
        self.next_s = max(self.next_s + 1 / FPS, time.monotonic() - 0.1)
        time.sleep(max(0.0, self.next_s - time.monotonic()))
        self.index += 1
        weather = self.weather
        if weather.pending_source == "source.unplugged":
            weather.pending_source = ""
            return None
        if weather.pending_source == "source.size":
            weather.pending_source = ""
            return raw_picture(self.index)[:-8]
        if weather.pending_source == "source.garbage":
            return b"no picture"
        if weather.pending_source == "source.raise":
            raise RuntimeError("driver")
        if weather.pending_source == "source.hang":
            time.sleep(1e4)
        return raw_picture(self.index)

    def close(self):
        pass


class Parts:
    """Analyser, encoder and generator of the storm: right, but for the fault of the frame."""

    def __init__(self, weather, before_death):
        self.weather, self.before_death = weather, before_death
        self.frame_skin, self.late = {}, frozenset()
        self.frame = None

    def dies(self, name):
        if not self.weather.strikes(name):
            return False
        self.before_death()
        return True

    # the analyser
    def __call__(self, frame):
        self.begin(frame)
        return self.finish()

    def begin(self, frame):
        from veilcam.camera.types import Scene

        self.frame = frame
        self.weather.draw()
        if self.weather.current.startswith("source."):
            kind = self.weather.current
            if "clock" not in kind and self.weather.strikes(kind):
                self.weather.pending_source = kind
                if kind.endswith(("hang", "garbage", "raise")):
                    self.before_death()
        if self.weather.strikes("signal.storm"):
            self.before_death(is_storm=True)
        return Scene(size_hw=frame.bgr.shape[:2], heads=())

    def finish(self):
        import numpy as np

        from veilcam.camera.types import Scene

        strikes = self.weather.strikes
        if strikes("detector.raise"):
            raise RuntimeError("detector")
        if strikes("detector.memory"):
            raise MemoryError
        if self.dies("detector.none"):
            return None
        if self.dies("detector.garbage"):
            return "no scene"
        if self.dies("detector.hang"):
            time.sleep(1e4)
        head = self.head()
        if strikes("detector.nan"):
            head = changed(head, hull_xy=head.hull_xy * np.nan)
        if strikes("detector.shape"):
            head = changed(head, hull_xy=head.hull_xy[:1])
        if strikes("tracker.nan_place"):
            head = changed(head, center_xy=(float("nan"), 1.0))
        if strikes("tracker.zero_size"):
            head = changed(head, size_px=0.0)
        heads = (head, head) if strikes("tracker.duplicate") else (head,)
        self.frame_skin = {0: (120.0, 150.0, 190.0)}
        return Scene(size_hw=self.frame.bgr.shape[:2], heads=heads)

    def head(self):
        import numpy as np

        from veilcam.camera.types import Head

        ys, xs = np.nonzero(self.frame.bgr[..., 0] == COLOURS_BGR[0][0])  # never misses
        x, y = float(xs.min()) + HEAD_PX / 2, float(ys.min()) + HEAD_PX / 2
        x0, y0, x1, y1 = xs.min() - 6, ys.min() - 6, xs.max() + 6, ys.max() + 6
        hull = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
        return Head(
            track_id=0, center_xy=(x, y), size_px=36.0, yaw_deg=0.0, pitch_deg=0.0, roll_deg=0.0,
            expression={}, hull_xy=hull, is_predicted=False,
        )  # fmt: skip

    # the encoder
    def encode(self, scene, skin_bgr):
        import numpy as np

        from veilcam.camera.types import Codes, HeadCode

        strikes = self.weather.strikes
        if strikes("code.raise"):
            raise RuntimeError("code")
        if strikes("code.garbage"):
            return 7
        heads = tuple(
            HeadCode(
                track_id=h.track_id, levels=(0,), values=np.zeros(1, np.float32),
                latent=np.zeros(4, np.float32), center_xy=h.center_xy, size_px=h.size_px,
                roll_deg=h.roll_deg, skin_bgr=skin_bgr[h.track_id], hull_xy=h.hull_xy,
            )
            for h in scene.heads
        )  # fmt: skip
        if strikes("code.nan"):
            heads = tuple(changed(h, size_px=float("nan")) for h in heads)
        if strikes("code.missing_head"):
            heads = ()
        return Codes(size_hw=scene.size_hw, heads=heads, blank_reason=scene.blank_reason)

    # the generator
    def paint(self, codes):
        import numpy as np

        from veilcam.camera.types import Patches

        strikes = self.weather.strikes
        if strikes("generator.raise"):
            raise RuntimeError("generator")
        if strikes("generator.none"):
            return None
        if self.dies("generator.hang"):
            time.sleep(1e4)
        if self.dies("generator.exit"):
            os._exit(3)
        patch = np.full((16, 16, 4), (120, 130, 140, 255), np.uint8)
        if strikes("generator.garbage"):
            patch = np.full((16, 16, 4), np.inf)
        if strikes("generator.shape"):
            patch = patch[..., :3]
        if strikes("generator.float"):
            patch = patch.astype(np.float32) * np.nan
        count = 0 if strikes("generator.too_few") else len(codes.heads)
        return Patches(bgra=(patch,) * count)


def changed(value, **changes):
    """A copy with other fields, past the checks of types: what broken native code hands out."""
    from dataclasses import fields

    copy = object.__new__(type(value))
    for field in fields(value):
        object.__setattr__(copy, field.name, changes.get(field.name, getattr(value, field.name)))
    return copy


class StormLoop:
    """The product's loop with what it reports."""

    def __init__(self, loop, weather):
        self._loop, self._weather = loop, weather
        self.timings = {}
        self.report = self

    def to_json(self):
        told = {"injected": dict(self._weather.injected), "died": dict(self._weather.died)}
        return self._loop.report.to_json() | told

    def run(self, max_frames):
        return self._loop.run(max_frames)


def capture_parts(options):
    """`capture.load_parts` of the storm."""

    def load(_settings):
        from veilcam.camera import live, loop, manifest

        state = {}

        def open_source(_spec):
            weather = Weather(options, time.monotonic_ns(), "capture")
            weather.pending_source = ""
            state["weather"] = weather
            if options["clip"]:
                return ClipLike(weather, options)
            return live.LiveSource(lambda: Camera(weather), reopen_s=1.0)

        def build(source, sink, *, bundle, delay_frames, profile):
            weather = state["weather"]
            if bundle and weather.random.random() < options["truncated_rate"]:
                weather.injected["model.truncated"] += 1
                weather.died["model.truncated"] = time.monotonic()
                source.report = lambda: {"injected": weather.injected, "died": weather.died}
                source.tell(is_due=True)
                manifest.load_bundle(bundle)

            def before_death(*, is_storm=False):
                if is_storm:
                    for number in (1, 2, 10, 12, 13, 14, 28):
                        signal_self(number)
                    return
                source.tell(is_due=True)

            storm = FaultySink(sink, weather, before_death, options)
            if options["mode"] == "face":
                parts = Parts(weather, before_death)
                real = loop.Loop(
                    source, parts, parts, parts.paint, storm, delay_frames=delay_frames
                )
                at, name = loop, "compose"
            else:
                import storm_scene

                parts = storm_scene.SceneParts(weather, before_death)
                real, at = storm_scene.build_loop(options["mode"], parts, source, storm)
                name = "compose_scene"
            patch_compose(at, name, parts, weather, before_death, is_leaky=options["leak"])
            return StormLoop(real, weather)

        return build, open_source

    return load


def signal_self(number):
    """The process signals itself; it must not care."""
    import signal

    signal.raise_signal(number)


def patch_compose(at, name, parts, weather, before_death, *, is_leaky):
    """Puts a compose that fails in front of the real one."""
    from veilcam.camera.types import _MAKER, SafeFrame

    compose = getattr(at, name)

    def failing(*given, **named):
        frame = parts.frame
        if is_leaky and weather.left_quiet < 0:  # the planted leak
            return SafeFrame(frame.bgr, frame.index, frame.time_s, "", _MAKER)
        if weather.strikes("compose.raise"):
            raise ValueError("compose")
        for fault, value in (("compose.raw", frame), ("compose.none", None)):
            if weather.current == fault:
                before_death_of(weather, fault, before_death)
                return value
        if weather.current == "compose.segfault":
            before_death_of(weather, "compose.segfault", before_death)
            ctypes.string_at(0)
        safe = compose(*given, **named)
        if weather.strikes("source.clock_nan"):
            return changed(safe, time_s=float("nan"))
        if weather.strikes("source.clock_jump"):
            return changed(safe, time_s=weather.random.choice([-1e9, 1e12, 0.0]))
        return safe

    setattr(at, name, failing)


def before_death_of(weather, name, before_death):
    weather.strikes(name)
    before_death()


class FaultySink:
    """In front of the ring."""

    def __init__(self, sink, weather, before_death, options):
        self.sink, self.weather, self.before_death = sink, weather, before_death
        self.options = options

    def write(self, safe):
        from veilcam.camera import control

        strikes, sink = self.weather.strikes, self.sink
        peer, epoch = sink._worker.peer, sink._epoch
        if strikes("ring.wrong_slot"):
            peer.send(control.Wrote(epoch, 99, 4))
        if strikes("ring.wrong_seq"):
            peer.send(control.Wrote(epoch, 0, 10**15))
        if strikes("ring.torn"):  # told before it is there
            peer.send(control.Wrote(epoch, (sink._ring._last + 1) % 4, 2))
        if strikes("control.old_epoch"):
            peer.send(control.Ended(max(0, epoch - 1)))
        for name in IN_LIFE:
            if (
                name.startswith(("ring.", "control.", "code.memory"))
                and self.weather.current == name
            ):
                before_death_of(self.weather, name, self.before_death)
                self.die_of(name, peer, epoch)
        sink.write(safe)

    def die_of(self, name, peer, epoch):
        from veilcam.camera import control

        ring = self.sink._ring
        if name == "ring.killed_while_writing":
            slot = ring._claim()
            ring._memory[ring._starts[slot] + 4096 : ring._starts[slot] + 9000] = b"\xfa" * 4904
            os._exit(9)
        if name == "ring.size":
            peer.send(control.Ready(epoch, 90, 90, 30.0, True))
        if name == "control.garbage":
            os.write(peer.fileno(), bytes(range(64)))
        if name == "control.flood":
            for _ in range(20_000):
                peer.send(control.Started(epoch))
            os._exit(4)
        if name == "control.wrong_role":
            peer.send(control.Go(epoch, True))
        if name == "code.memory_error_outside":
            raise MemoryError


class ClipLike:
    """So many raw pictures, not live."""

    fps, size_hw, is_live = 30.0, SIZE_HW, False

    def __init__(self, weather, options):
        self.weather, self.left, self.index = weather, options["clip"], 0

    def read(self):
        from veilcam.camera.types import Frame

        if self.index >= self.left:
            return None
        self.index += 1
        return Frame(raw_picture(self.index - 1), self.index - 1, (self.index - 1) / 30)

    def close(self):
        pass


DEFAULTS = {
    "seed": 0, "frame_rate": 0.5, "life_rate": 0.0, "sink_rate": 0.0, "truncated_rate": 0.0,
    "clip": 0, "full_disk": False, "leak": False, "mode": "face",
}  # fmt: skip


def command(role, **options):
    """The program of a role, for `Supervisor`."""
    text = json.dumps(DEFAULTS | options)
    return (sys.executable, "-P", __file__, role, text)


def main(argv):
    role, options = argv[0], json.loads(argv[1])
    if role == "capture":
        from veilcam.camera import capture

        return capture.main(argv[2:], capture_parts(options))
    from veilcam.camera import publish

    weather = Weather(options, time.monotonic_ns(), "publish")
    return publish.main(argv[2:], open_storm_sink(options, weather))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
