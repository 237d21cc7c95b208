"""A clip through the product's loop, judged frame by frame: leaks, flicker, counts, linkage."""

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from veilcam.camera.audit_faces import Face, FaceFinder
from veilcam.camera.audit_recognizers import Recognizer
from veilcam.camera.audit_shots import OURS
from veilcam.camera.audit_stats import binomial_tail, bootstrap, share_of_hits
from veilcam.camera.audit_use import row
from veilcam.camera.capture import Build
from veilcam.camera.source import Source, open_source
from veilcam.camera.types import Frame, SafeFrame

_MIN_VECTORS = 8


@dataclass(slots=True)
class ClipNumbers:
    """What was seen of one clip; vectors are in memory only.

    Attributes:
        frames: Frames judged.
        heads: Faces in originals; each entry of the lists below belongs to one of them.
        alike: Highest similarity of original and output over its threshold, by recognizer.
        found: A face in the output at its place.
        counts: (faces in the original, faces in the output) of each frame.
        own, standin: Vectors of originals and stand-ins by place in the frame (left to right)
            and frame number, first recognizer.
    """

    frames: int = 0
    alike: dict[str, list[float]] = field(default_factory=dict)
    found: list[bool] = field(default_factory=list)
    frame_of: list[int] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)
    own: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    standin: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)


class Tee:
    """A source that remembers originals until the judge has seen them."""

    is_live = False

    def __init__(self, source: Source, max_frames: int | None) -> None:
        self._source, self._left = source, max_frames
        self.size_hw, self.fps = source.size_hw, source.fps
        self.originals: deque[Frame] = deque()

    def read(self) -> Frame | None:
        """Next frame of the clip, while frames are left."""
        if self._left is not None:
            self._left -= 1
        frame = None if self._left is not None and self._left < 0 else self._source.read()
        if frame is not None:
            self.originals.append(frame)
        return frame

    def close(self) -> None:
        """Close the clip."""
        self._source.close()


class _JudgeSink:
    is_done = False

    def __init__(
        self, tee: Tee, finder: FaceFinder, recognizers: tuple[Recognizer, ...],
        limits: dict[str, float],
    ) -> None:  # fmt: skip
        self._tee, self._finder, self._recognizers = tee, finder, recognizers
        self._limits = limits
        self.numbers = ClipNumbers()

    def write(self, frame: SafeFrame) -> None:
        original = self._tee.originals.popleft().bgr
        heads, shown = self._finder(original), self._finder(frame.bgr)
        numbers = self.numbers
        for place, head in enumerate(sorted(heads, key=lambda f: f.box_xywh[0])):
            near = [f for f in shown if head.is_at(f)]
            self._compare_into(numbers, original, frame.bgr, head, near)
            numbers.found.append(bool(near))
            numbers.frame_of.append(numbers.frames)
            first = self._recognizers[0]
            if len(heads) > 0:
                numbers.own[place, numbers.frames] = first(original, head)
            if near:
                numbers.standin[place, numbers.frames] = first(frame.bgr, near[0])
        numbers.counts.append((len(heads), len(shown)))
        numbers.frames += 1

    def _compare_into(
        self, numbers: ClipNumbers, original: np.ndarray, output: np.ndarray, head: Face,
        near: list[Face],
    ) -> None:  # fmt: skip
        for recognizer in self._recognizers:
            own = recognizer(original, head)
            best = max(float(own @ recognizer(output, view)) for view in (head, *near))
            over = best - self._limits[recognizer.name]
            numbers.alike.setdefault(recognizer.name, []).append(over)


def judge_clip(
    path: Path | str, *, build: Build, bundle: Path | None, finder: FaceFinder,
    recognizers: tuple[Recognizer, ...], limits: dict[str, float], max_frames: int,
) -> ClipNumbers:  # fmt: skip
    """Run the loop of a mode, which `build` builds, over a clip and judge every frame."""
    tee = Tee(open_source(str(path)), max_frames)
    try:
        sink = _JudgeSink(tee, finder, recognizers, limits)
        build(tee, sink, bundle=bundle).run()
    finally:
        tee.close()
    return sink.numbers


def clip_rows(numbers: ClipNumbers) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Attack rows and utility rows of one run over a clip; frames are the unit of resampling."""
    attacks, use = [], []
    frames = np.array(numbers.frame_of)
    for name, over in numbers.alike.items():
        hits = np.array(over) >= 0
        estimate = share_of_hits(hits, frames)
        attacks.append(
            {
                "name": "clip_original_recognized_in_place",
                "recognizer": name,
                "metric": "share_of_heads_at_far_1e-3",
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "control_positive": 1.0,
                "control_negative": None,
                "chance": 1e-3,
                "n": len(over),
                "decides": True,
                "p_value": binomial_tail(int(hits.sum()), len(over), 1e-3),
            }
        )
    found = np.array(numbers.found, bool)
    if len(found):
        use.append(row("clip_detection_recall", OURS, share_of_hits(found, frames), best=1.0))
    same = np.array([a == b for a, b in numbers.counts], bool)
    unit = np.arange(len(same))
    use.append(row("clip_person_count_agrees", OURS, share_of_hits(same, unit), best=1.0))
    for view, vectors in (("original", numbers.own), (OURS, numbers.standin)):
        drift = _drift(vectors)
        if len(drift) >= _MIN_VECTORS:
            estimate = bootstrap(partial(_picked_mean, drift), len(drift))
            use.append(row("clip_flicker", view, estimate, best=0.0, unit="1 - cosine per frame"))
    return attacks, use


def _picked_mean(values: np.ndarray, pick: np.ndarray) -> float:
    return float(values[pick].mean())


def _drift(vectors: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """1 - cosine of the same head in two frames in a row."""
    steps = [
        1 - float(vector @ vectors[place, frame + 1])
        for (place, frame), vector in vectors.items()
        if (place, frame + 1) in vectors
    ]
    return np.array(steps)
