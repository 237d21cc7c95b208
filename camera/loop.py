"""The frame's whole way: read, analyse, encode, generate, compose, write. Faults give a blank."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from veilcam.camera.compose import compose
from veilcam.camera.errors import SourceError
from veilcam.camera.types import Codes, Frame, Head, Patches, SafeFrame, Scene

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
STAGES = ("analyse", "encode", "generate", "compose", "total")
MAX_DELAY_FRAMES = 3
_MAX_TIMINGS = 20_000  # a day of camera must not fill the memory
_MAX_SOURCE_FAULTS = 90  # in a row: about three seconds of a camera that does not answer
_REACH_BACK_GROWTH = 0.25  # a hull carried back in time grows by this share for each frame


@runtime_checkable
class SourceLike(Protocol):
    """What the loop needs of a source: frames one by one, None at the end."""

    size_hw: tuple[int, int]
    is_live: bool

    def read(self) -> Frame | None:
        """Next frame; raises SourceError where there is none to be had."""


@runtime_checkable
class SinkLike(Protocol):
    """What the loop needs of a sink. It gets safe frames only."""

    def write(self, frame: SafeFrame) -> None:
        """Take one picture; raises SinkError where it cannot."""


@runtime_checkable
class AnalyserLike(Protocol):
    """Frame -> Scene, and the skin colour of the last scene's heads."""

    frame_skin: dict[int, tuple[float, float, float]]

    def __call__(self, frame: Frame) -> Scene:
        """Every head in the frame."""


@runtime_checkable
class EncoderLike(Protocol):
    """Scene -> Codes."""

    def encode(self, scene: Scene, skin_bgr: dict[int, tuple[float, float, float]]) -> Codes:
        """The code of one scene."""


@dataclass(slots=True)
class RunReport:
    """Counters of one run; `to_json` gives what `veilcam run --json` prints."""

    frames_in: int = 0
    frames_out: int = 0
    frames_dropped: int = 0
    frames_blank: int = 0
    heads_replaced: int = 0
    people: set[int] = field(default_factory=set)
    faults: Counter[str] = field(default_factory=Counter)
    bundle_sha256: str = ""
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`; `faults` counts all, `faults_by_stage` each."""
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "frames_dropped": self.frames_dropped,
            "frames_blank": self.frames_blank,
            "faults": sum(self.faults.values()),
            "faults_by_stage": dict(self.faults),
            "people_seen": len(self.people),
            "heads_replaced": self.heads_replaced,
            "mode": "face",
            "strength": "strict",
            "bundle_sha256": self.bundle_sha256,
            "latency_ms": self.latency_ms,
            "barriers": {"processes": "one", "types": "Frame/SafeFrame"},
        }


@dataclass(slots=True)
class _Waiting:
    """A frame held back by the look-ahead, with what is known of it."""

    frame: Frame
    scene: Scene
    skin: dict[int, tuple[float, float, float]]


class Loop:
    """Runs frames from a source to a sink.

    Args:
        source, analyser, encoder, generator, sink: The five parts; composing is not exchangeable.
        delay_frames: Frames of look-ahead, 0-3: a head found now is hidden in these frames too.
        bundle_sha256: Hash of the bundle, for the report.

    Attributes:
        timings: Milliseconds of each stage and frame; `total` is from the frame in memory to the
            safe frame handed to the sink, without the waiting of a look-ahead.
        report: Counters so far.
    """

    def __init__(
        self,
        source: SourceLike,
        analyser: AnalyserLike,
        encoder: EncoderLike,
        generator: Callable[[Codes], Patches],
        sink: SinkLike,
        *,
        delay_frames: int = 0,
        bundle_sha256: str = "",
    ) -> None:
        if not 0 <= delay_frames <= MAX_DELAY_FRAMES:
            raise ValueError(f"delay_frames={delay_frames} must be in 0..{MAX_DELAY_FRAMES}")
        self._source, self._analyser, self._encoder = source, analyser, encoder
        self._generator, self._sink = generator, sink
        self._delay_frames = delay_frames
        self._waiting: deque[_Waiting] = deque()
        self._known_ids: set[int] = set()
        self._source_faults = 0
        self.timings: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.report = RunReport(bundle_sha256=bundle_sha256)

    def step(self) -> bool:
        """Take one frame in and hand one safe frame out; False once the source is empty.

        Raises:
            SourceError: A clip cannot be read, or a live source is silent for too long.
            SinkError: The output cannot be kept.
        """
        frame = self._read()
        if frame is None:
            while self._waiting:
                self._write(self._finish(self._waiting.popleft()))
            return False
        start_ns = time.perf_counter_ns()
        self._waiting.append(self._analyse(frame))
        if len(self._waiting) > self._delay_frames:
            safe = self._finish(self._waiting.popleft())
            self._time("total", start_ns)
            self._write(safe)
        return True

    def run(self, max_frames: int | None = None) -> RunReport:
        """Step until the source is empty or `max_frames` were read; the owner closes both ends."""
        while max_frames is None or self.report.frames_in < max_frames:
            if not self.step():
                break
        while self._waiting:
            self._write(self._finish(self._waiting.popleft()))
        self.report.frames_dropped = int(getattr(self._source, "frames_dropped", 0))
        self.report.latency_ms = {k: percentiles(v) for k, v in self.timings.items() if v}
        return self.report

    def _read(self) -> Frame | None:
        """Next frame; a live source that fails gives blanks until it answers again."""
        while True:
            try:
                frame = self._source.read()
            except SourceError:
                self._source_faults += 1
                if not self._source.is_live or self._source_faults > _MAX_SOURCE_FAULTS:
                    raise
                self._fault("read", "the camera does not answer")
                index, now_s = self.report.frames_in, time.perf_counter()
                size_hw = self._source.size_hw
                self._write(
                    SafeFrame.blank(size_hw, index=index, time_s=now_s, reason="no picture")
                )
                continue
            self._source_faults = 0
            self.report.frames_in += frame is not None
            return frame

    def _analyse(self, frame: Frame) -> _Waiting:
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        try:
            scene = self._timed("analyse", lambda: self._analyser(frame))
            skin = dict(self._analyser.frame_skin)
        except Exception as error:  # any fault of analysis must end in a blank, never in raw pixels
            reason = self._fault("analyse", type(error).__name__)
            return _Waiting(frame, Scene(size_hw=size_hw, heads=(), blank_reason=reason), {})
        self._reach_back(scene, skin)
        return _Waiting(frame, scene, skin)

    def _reach_back(self, scene: Scene, skin: dict[int, tuple[float, float, float]]) -> None:
        """Hide heads that were found just now in the frames that still wait, too."""
        born = [head for head in scene.heads if head.track_id not in self._known_ids]
        self._known_ids.update(head.track_id for head in born)
        for age, waiting in enumerate(reversed(self._waiting), start=1):
            added = tuple(
                replace(
                    head,
                    is_predicted=True,
                    hull_xy=_grown(head.hull_xy, 1 + _REACH_BACK_GROWTH * age),
                )
                for head in born
            )
            waiting.scene = replace(waiting.scene, heads=waiting.scene.heads + added)
            waiting.skin.update({h.track_id: skin[h.track_id] for h in born if h.track_id in skin})

    def _finish(self, waiting: _Waiting) -> SafeFrame:
        """Encode, generate, compose: a safe frame in every case."""
        frame, stage = waiting.frame, "encode"
        try:
            codes = self._timed("encode", lambda: self._encoder.encode(waiting.scene, waiting.skin))
            stage = "generate"
            patches = self._timed("generate", lambda: self._generator(codes))
            stage = "compose"
            safe = self._timed("compose", lambda: compose(frame, codes, patches))
        except Exception as error:  # as above: whatever happens, the sink gets a blank
            reason = self._fault(stage, type(error).__name__)
            size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
            return SafeFrame.blank(size_hw, index=frame.index, time_s=frame.time_s, reason=reason)
        if not safe.reason:
            self._count(waiting.scene.heads)
        return safe

    def _count(self, heads: tuple[Head, ...]) -> None:
        self.report.heads_replaced += len(heads)
        self.report.people.update(head.track_id for head in heads)

    def _write(self, safe: SafeFrame) -> None:
        self._sink.write(safe)
        self.report.frames_out += 1
        self.report.frames_blank += bool(safe.reason)

    def _fault(self, stage: str, what: str) -> str:
        """Count a fault; say so at its first time only, and never with what it was about."""
        self.report.faults[stage] += 1
        if self.report.faults[stage] == 1:
            _log.warning("%s failed (%s); its frames are blank", stage, what)
        return f"{stage} failed: {what}"

    def _timed(self, stage: str, work: Callable[[], _T]) -> _T:
        start_ns = time.perf_counter_ns()
        result = work()
        self._time(stage, start_ns)
        return result

    def _time(self, stage: str, start_ns: int) -> None:
        values = self.timings[stage]
        values.append((time.perf_counter_ns() - start_ns) / 1e6)
        if len(values) > _MAX_TIMINGS:
            del values[: _MAX_TIMINGS // 2]


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """p50, p95, p99 and max of some durations, milliseconds.

    >>> percentiles([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    p50, p95, p99 = (float(v) for v in np.percentile(values_ms, [50, 95, 99]))
    return {"p50": p50, "p95": p95, "p99": p99, "max": float(max(values_ms))}


def build_loop(
    source: SourceLike,
    sink: SinkLike,
    *,
    bundle: Path | None = None,
    delay_frames: int = 0,
    profile: Mapping[str, Any] | None = None,
) -> Loop:
    """The product's loop: YuNet and mesh analysis, the bundle's generator and latents.

    Args:
        source: Where frames come from; the caller closes it.
        sink: Where safe frames go; the caller closes it.
        bundle: Folder NAME.veil; by default the one in the package.
        delay_frames: Frames of look-ahead, 0-3.
        profile: Device profile of `veilcam bench --tune`: precision, threads, execution_provider.
    """
    from veilcam.camera.analysis import Analyser
    from veilcam.camera.code import Encoder
    from veilcam.camera.generator import Generator
    from veilcam.camera.manifest import load_bundle

    loaded = load_bundle(bundle)
    settings = ("precision", "threads", "execution_provider")
    generator = Generator(loaded, **{k: v for k, v in (profile or {}).items() if k in settings})
    encoder = Encoder(loaded.mean, loaded.chol, loaded.skin)
    analyser = Analyser()
    analyser.warm_up(source.size_hw)
    return Loop(
        source, analyser, encoder, generator, sink,
        delay_frames=delay_frames, bundle_sha256=loaded.sha256,
    )  # fmt: skip


def _grown(hull: Float[np.ndarray, "n 2"], factor: float) -> Float[np.ndarray, "n 2"]:
    middle = hull.mean(0)
    return np.asarray(middle + factor * (hull - middle))
