"""The frame's whole way: read, analyse, encode, generate, compose, write. Faults give a blank."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from veilcam.camera.compose import compose
from veilcam.camera.parts import AnalyserLike, EncoderLike, SinkLike, SourceLike
from veilcam.camera.pending import Pending
from veilcam.camera.report import RunReport, percentiles
from veilcam.camera.running import Running
from veilcam.camera.types import Codes, Frame, Head, Patches, SafeFrame, Scene
from veilcam.camera.watch import Watch, watch_for

__all__ = ["Loop", "RunReport", "SinkLike", "SourceLike", "build_loop", "percentiles"]

STAGES = ("analyse", "encode", "generate", "compose", "total")
MAX_DELAY_FRAMES = 3
_REACH_BACK_GROWTH = 0.25  # a hull carried back in time grows by this share for each frame


class Loop(Running):
    """Runs frames from a source to a sink.

    Args:
        source, analyser, encoder, generator, sink: The five parts; composing is not exchangeable.
        delay_frames: Frames of look-ahead, 0-3: a head found now is hidden in these frames too.
        bundle_sha256: Hash of the bundle, for the report.
        watch: The audit beside the loop.

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
        watch: Watch | None = None,
    ) -> None:
        if not 0 <= delay_frames <= MAX_DELAY_FRAMES:
            raise ValueError(f"delay_frames={delay_frames} must be in 0..{MAX_DELAY_FRAMES}")
        super().__init__(source, sink, stages=STAGES, report=RunReport(bundle_sha256=bundle_sha256))
        self._analyser, self._encoder, self._generator = analyser, encoder, generator
        self._delay_frames, self._watch = delay_frames, watch
        self._waiting: deque[Pending] = deque()
        self._known_ids: set[int] = set()

    def step(self) -> bool:
        """Take one frame in and hand one safe frame out; False once the source is empty.

        Raises:
            SourceError: A clip cannot be read, or a live source is silent for too long.
            SinkError: The output cannot be kept.
        """
        frame = self._read()
        if frame is None:
            self.finish()
            return False
        start_ns = time.perf_counter_ns()
        if self._watch is not None:
            self._watch.begin_frame()
        newest = self._begin(frame)
        self._waiting.append(newest)
        oldest = self._waiting[0] if len(self._waiting) > self._delay_frames else None
        if oldest is not None:  # painted while the detector still searches the newest frame
            self._paint(oldest)
        self._find(newest)
        if oldest is not None:
            self._waiting.popleft()
            safe = self._finish(oldest)
            self._note("total", (time.perf_counter_ns() - start_ns) / 1e6)
            self._write(safe)
        return True

    def finish(self) -> None:
        """Hand out the frames that wait for those behind them."""
        while self._waiting:
            self._write(self._finish(self._waiting.popleft()))
        if self._watch is not None:
            self._watch.drain()
            self.report.audit = self._watch.to_json()

    def _begin(self, frame: Frame) -> Pending:
        size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
        newest = Pending(frame, Scene(size_hw=size_hw, heads=()))
        try:
            with newest.timed("analyse"):
                newest.scene = self._analyser.begin(frame)
            newest.skin = dict(self._analyser.frame_skin)
        except Exception as error:  # any fault of analysis must end in a blank, never in raw pixels
            newest.reason = self._fault("analyse", type(error).__name__)
        return newest

    def _find(self, newest: Pending) -> None:
        """Wait for all heads of the newest frame; known codes of heads in other places are void."""
        if newest.reason.startswith("analyse"):
            return
        try:
            with newest.timed("analyse"):
                newest.scene = self._analyser.finish()
            newest.skin = dict(self._analyser.frame_skin)
        except Exception as error:  # as above
            newest.reason = self._fault("analyse", type(error).__name__)
            return
        for track_id in self._analyser.late:
            newest.codes.pop(track_id, None)
        self._reach_back(newest)

    def _reach_back(self, newest: Pending) -> None:
        """Hide heads that were found just now in the frames that still wait, too."""
        born = [head for head in newest.scene.heads if head.track_id not in self._known_ids]
        self._known_ids.update(head.track_id for head in born)
        for age, waiting in enumerate(list(self._waiting)[-2::-1], start=1):
            added = tuple(
                replace(
                    head,
                    is_predicted=True,
                    hull_xy=_grown(head.hull_xy, 1 + _REACH_BACK_GROWTH * age),
                )
                for head in born
            )
            waiting.scene = replace(waiting.scene, heads=waiting.scene.heads + added)
            ids = [head.track_id for head in born if head.track_id in newest.skin]
            waiting.skin.update({track_id: newest.skin[track_id] for track_id in ids})

    def _paint(self, waiting: Pending) -> None:
        """Encode the scene and paint every head that has no code yet; hulls come later."""
        todo = {h.track_id for h in waiting.scene.heads if h.track_id not in waiting.codes}
        if waiting.reason or (waiting.is_painted and not todo):
            return
        stage = "encode"
        try:
            with waiting.timed(stage):
                codes = self._encoder.encode(waiting.scene, waiting.skin)
            codes = replace(codes, heads=tuple(h for h in codes.heads if h.track_id in todo))
            stage = "generate"
            with waiting.timed(stage):
                patches = self._generator(codes)
            stage = "compose"
            for code, bgra in zip(codes.heads, patches.bgra, strict=True):
                waiting.codes[code.track_id], waiting.patches[code.track_id] = code, bgra
        except Exception as error:  # whatever happens, the sink gets a blank
            waiting.reason = self._fault(stage, type(error).__name__)
        waiting.is_painted = True

    def _finish(self, waiting: Pending) -> SafeFrame:
        """Paint what is left and compose: a safe frame in every case."""
        self._paint(waiting)
        frame, scene, safe = waiting.frame, waiting.scene, None
        if self._watch is not None and self._watch.is_blank and scene.heads:
            waiting.reason = waiting.reason or "audit: originals are recognized"
        if not waiting.reason:
            try:
                heads = tuple(
                    replace(waiting.codes[h.track_id], hull_xy=h.hull_xy) for h in scene.heads
                )
                bgra = tuple(_patch(waiting, h) for h in scene.heads)
                codes = Codes(size_hw=scene.size_hw, heads=heads, blank_reason=scene.blank_reason)
                with waiting.timed("compose"):
                    safe = compose(frame, codes, Patches(bgra=bgra))
            except Exception as error:  # as above
                waiting.reason = self._fault("compose", type(error).__name__)
        for stage, spent_ms in waiting.spent_ms.items():
            self._note(stage, spent_ms)
        if safe is None:
            size_hw = (frame.bgr.shape[0], frame.bgr.shape[1])
            return SafeFrame.blank(
                size_hw, index=frame.index, time_s=frame.time_s, reason=waiting.reason
            )
        if not safe.reason:
            self._count(scene.heads)
            self._sample(frame, safe, scene.heads)
        return safe

    def _sample(self, frame: Frame, safe: SafeFrame, heads: tuple[Head, ...]) -> None:
        if self._watch is not None:
            seen = tuple(h.hull_xy for h in heads if not (h.is_predicted or h.is_doubted))
            self._watch.offer(frame.bgr, safe.bgr, seen)
            self.report.audit = self._watch.to_json()

    def _count(self, heads: tuple[Head, ...]) -> None:
        self.report.heads_replaced += len(heads)
        self.report.people.update(head.track_id for head in heads)


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
    from veilcam.camera.casting import casting_for
    from veilcam.camera.code import Encoder
    from veilcam.camera.generator import Generator
    from veilcam.camera.manifest import load_bundle
    from veilcam.camera.repaint import Repainter

    loaded = load_bundle(bundle)
    settings = ("precision", "threads", "execution_provider")
    generator = Generator(loaded, **{k: v for k, v in (profile or {}).items() if k in settings})
    casting = casting_for(loaded)
    encoder = Encoder(loaded.mean, loaded.chol, loaded.skin, casting=casting)
    analyser = Analyser()
    analyser.warm_up(source.size_hw)
    return Loop(
        source, analyser, encoder, Repainter(generator), sink,
        delay_frames=delay_frames, bundle_sha256=loaded.sha256,
        watch=watch_for(encoder.set_strength),
    )  # fmt: skip


def _patch(waiting: Pending, head: Head) -> UInt8[np.ndarray, "h w 4"]:
    """What is laid over a hidden head: nothing where no second look found a face in it."""
    painted = waiting.patches[head.track_id]
    return np.zeros_like(painted) if head.is_doubted else painted


def _grown(hull: Float[np.ndarray, "n 2"], factor: float) -> Float[np.ndarray, "n 2"]:
    middle = hull.mean(0)
    return np.asarray(middle + factor * (hull - middle))
