"""The storm's sink: it looks at every picture for raw pixels, counts, and fails at times."""

import io
import time

from sentinel import Looker

GAP_S = 0.2  # shorter times without a good picture are not worth a line


class LookingSink:
    """Hands pictures on and looks at each; its counters go into publish's report."""

    def __init__(self, options, inner, weather):
        self.options, self.inner, self.weather = options, inner, weather
        self.looker = Looker()
        self.is_done = False
        self.number = 0
        self.first_good_s = self.last_good_s = self.last_any_s = 0.0
        self.longest_still_s = 0.0
        self.gaps = {}
        self.good = 0

    def write(self, frame):
        now_s = time.monotonic()
        self.number += 1
        self.looker.look(frame.bgr, self.number)
        if self.last_any_s:
            self.longest_still_s = max(self.longest_still_s, now_s - self.last_any_s)
        self.last_any_s = now_s
        if not frame.reason:
            self.good += 1
            if self.last_good_s and now_s - self.last_good_s > GAP_S:
                self.gaps[f"{self.last_good_s:.3f}"] = round(now_s, 3)
            self.first_good_s = self.first_good_s or now_s
            self.last_good_s = now_s
        self.weather.left_quiet -= 1
        if self.weather.left_quiet < 0 and self.weather.random.random() < self.options["sink_rate"]:
            if self.weather.random.random() < 0.5:
                raise RuntimeError("sink broke")
            time.sleep(1e4)
        self.inner.write(frame)

    @property
    def counters(self):
        return {
            "hits": dict(self.looker.hits), "checks": dict(self.looker.checks), "good": self.good,
            "first_good_s": self.first_good_s, "last_good_s": self.last_good_s,
            "gaps": dict(list(self.gaps.items())[-150:]), "longest_still_s": self.longest_still_s,
        }  # fmt: skip

    def close(self):
        self.inner.close()

    def abort(self):
        self.inner.abort()


class FullDisk(io.FileIO):
    """Takes some bytes, then has no room."""

    room = 3000

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return super().write(data)


def open_storm_sink(options, weather):
    """`sink.open_sink` of the storm."""

    def open_sink(spec, *, size_hw, fps):
        from veilcam.camera import sink, sink_file

        if options["full_disk"]:
            sink_file._open_new = lambda part: FullDisk(part, "xb")
        return LookingSink(options, sink.open_sink(spec, size_hw=size_hw, fps=fps), weather)

    return open_sink
