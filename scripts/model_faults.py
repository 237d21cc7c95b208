"""Faults inside every model of the real pipeline: what its graphs hand out is broken at random.

    .venv/bin/python scripts/model_faults.py --frames 600 --json models.json

The heads of the bundled clip are found in a clean run first. Then every graph (detector, mesh,
generator) raises, or hands out NaN, infinity, noise, zeros, too little or nothing, and each picture
that is not blank is compared with the raw one inside those heads: equal pixels there are a leak. A
detector that hands out plain zeros or noise *says* that nobody is there; how far tracks carry over
that is told apart (`silent`), as no check can tell it from the truth.
"""

import argparse
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort

from veilcam.camera.loop import Loop, build_loop
from veilcam.camera.source import demo_clip, open_source
from veilcam.camera.types import Frame, SafeFrame, Scene

LOUD = ("raise", "nan", "infinity", "cut", "none", "flat", "text")
SILENT = ("zeros", "noise")
_CORE = 0.6  # the inner part of a hull, where a stand-in never equals the raw picture by chance
_LEAK_SHARE = 0.3
_STEADY_FRAMES = 20  # a fist that looks like a face for a moment is no head


class Faults:
    """Decides at every run of a graph whether it fails, and how."""

    def __init__(self, seed: int, rate: float, kinds: tuple[str, ...]) -> None:
        self._random = random.Random(seed)
        self._rate, self._kinds = rate, kinds
        self.is_on = False
        self.injected: Counter[str] = Counter()

    def draw(self) -> str:
        """The fault of this run, or nothing."""
        if not self.is_on or self._random.random() > self._rate:
            return ""
        kind = self._random.choice(self._kinds)
        self.injected[kind] += 1
        return kind


def broken(outputs: list[np.ndarray], kind: str) -> Any:
    """What a graph hands out under a fault."""
    if kind == "raise":
        raise RuntimeError("graph")
    if kind == "nan":
        return [np.full(o.shape, np.nan, np.float32) for o in outputs]
    if kind == "infinity":
        return [np.full(o.shape, np.inf, np.float32) for o in outputs]
    if kind == "zeros":
        return [np.zeros_like(o) for o in outputs]
    if kind == "noise":
        return [np.random.default_rng(1).normal(size=o.shape).astype(o.dtype) for o in outputs]
    if kind == "cut":
        return [o[..., : max(0, o.shape[-1] // 2)] for o in outputs]
    if kind == "flat":
        return [o.reshape(-1) for o in outputs]
    return [] if kind == "none" else ["no array"] * len(outputs)


def patch_sessions(faults: Faults) -> Callable[[], None]:
    """Every graph opened from now on fails at times; the way back is handed out."""
    real = ort.InferenceSession

    class Failing(real):  # type: ignore[misc,valid-type]
        def run(self, *arguments: Any, **options: Any) -> Any:
            outputs = super().run(*arguments, **options)
            kind = faults.draw()
            return broken(outputs, kind) if kind else outputs

    ort.InferenceSession = Failing

    def undo() -> None:
        ort.InferenceSession = real

    return undo


class Watching:
    """A sink that compares what is safe with what was raw, inside the known heads."""

    is_done = False

    def __init__(self, heads: list[tuple[np.ndarray, ...]], raw: list[np.ndarray]) -> None:
        self.heads, self.raw = heads, raw
        self.leaks: list[int] = []
        self.blanks = self.pictures = 0

    def write(self, frame: SafeFrame) -> None:
        """Looks at the picture, keeps nothing."""
        self.pictures += 1
        self.blanks += bool(frame.reason)
        if not frame.reason and self._leaks(frame):
            self.leaks.append(frame.index)

    def _leaks(self, frame: SafeFrame) -> bool:
        raw = self.raw[frame.index]
        is_same = (np.abs(frame.bgr.astype(int) - raw) <= 1).all(2)
        for hull in self.heads[frame.index]:
            middle = hull.mean(0)
            core = np.zeros(raw.shape[:2], np.uint8)
            inner = (middle + _CORE * (hull - middle)).round().astype(np.int32)
            cv2.fillConvexPoly(core, inner, 1)
            if core.any() and is_same[core > 0].mean() > _LEAK_SHARE:
                return True
        return False


def known_heads() -> tuple[list[tuple[np.ndarray, ...]], list[np.ndarray]]:
    """Hulls and raw pictures of the clip, frame by frame, from a clean run."""
    found: list[dict[int, np.ndarray]] = []
    raw: list[np.ndarray] = []
    source = open_source("demo")
    loop = build_loop(source, Watching([], []))
    finish = loop._analyser.finish

    def noting() -> Scene:
        scene = finish()
        found.append({h.track_id: h.hull_xy for h in scene.heads if not h.is_predicted})
        return scene

    loop._analyser.finish = noting  # type: ignore[method-assign]
    loop._sink = type("Nowhere", (), {"write": lambda self, frame: None, "is_done": False})()
    keep_raw(loop, raw)
    loop.run()
    source.close()
    lives = Counter(track_id for frame in found for track_id in frame)
    steady = {track_id for track_id, count in lives.items() if count >= _STEADY_FRAMES}
    return [tuple(h for t, h in frame.items() if t in steady) for frame in found], raw


def keep_raw(loop: Loop, raw: list[np.ndarray]) -> None:
    """Keeps the raw pictures of a test's run; product code never does."""
    read = loop._read

    def reading() -> Frame | None:
        frame = read()
        if frame is not None:
            raw.append(frame.bgr)
        return frame

    loop._read = reading  # type: ignore[method-assign]


def storm(
    seed: int, num_frames: int, kinds: tuple[str, ...], rate: float, heads: Any, raw: Any
) -> dict[str, Any]:
    """So many frames with faults of `kinds`, in several passes over the clip."""
    faults = Faults(seed, rate, kinds)
    undo = patch_sessions(faults)
    sums = {"pictures": 0, "blanks": 0, "leaks": 0, "caught": 0}
    try:
        while sums["pictures"] < num_frames:
            faults.is_on = False
            source, sink = open_source("demo"), Watching(heads, raw)
            loop = build_loop(source, sink)
            faults.is_on = True
            loop.run()
            source.close()
            sums["pictures"] += sink.pictures
            sums["blanks"] += sink.blanks
            sums["leaks"] += len(sink.leaks)
            sums["caught"] += sum(loop.report.faults.values())
    finally:
        undo()
    return sums | {"injected": dict(faults.injected), "faults": sum(faults.injected.values())}


def main(argv: list[str], out: Callable[[str], object] = print) -> int:
    """Exit code 1 where a loud fault let a raw head through, or the planted leak was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.CRITICAL)
    heads, raw = known_heads()
    control = Watching(heads, raw)
    from veilcam.camera.types import _MAKER

    for index, bgr in enumerate(raw):  # the planted leak: the raw picture itself
        control.write(SafeFrame(bgr, index, 0.0, "", _MAKER))
    with_heads = sum(bool(h) for h in heads)
    result = {
        "clip": demo_clip().name,
        "control": {"leaks": len(control.leaks), "wanted": with_heads},
        "clean": storm(options.seed, len(raw), LOUD, -1.0, heads, raw),
        "loud": storm(options.seed, options.frames, LOUD, options.rate, heads, raw),
        "silent": storm(options.seed, options.frames // 2, SILENT, options.rate, heads, raw),
    }
    is_right = len(control.leaks) == with_heads and not result["loud"]["leaks"]  # type: ignore[index]
    result["verdict"] = "pass" if is_right else "fail"
    text = json.dumps(result, indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n")
    out(text)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
