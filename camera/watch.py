"""The audit beside the loop: now and then one head of the output is held against its original.

Two small crops live in memory until a thread of low priority has compared them; one number comes
out, and `audit_light` decides. No crop, vector or similarity is kept, logged or sent.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from veilcam.camera.audit_light import LightAudit, LightAuditConfig
from veilcam.camera.strength import Strength, chosen
from veilcam.camera.watch_choice import watch_chosen

__all__ = ["FaceJudge", "Judge", "Watch", "watch_for"]

_log = logging.getLogger(__name__)
# 1 in 1000 pairs of 400 different people reaches it with mobileface (docs/audit.md)
LIMIT = 0.46
_CALM_S, _SUSPECT_S = 2.0, 0.25  # between samples; the second while evidence of a leak stands
_CALM_SHARE, _SUSPECT_SHARE = 0.05, 0.25  # of one core, on average
_NICE = 10
_MARGIN = 0.2  # of a hull's box, on each side of it
_MAX_CROP_PX, _MIN_FACE_PX = 256, 32
_MIN_SCORE = 0.7
_DRAIN_S = 2.0
Picture = UInt8[np.ndarray, "h w 3"]
Judge = Callable[[Picture, Picture], float | None]


class FaceJudge:
    """Similarity of the face of an original and of what stands in its place, -1 to 1."""

    def __init__(self) -> None:
        from veilcam.camera.audit_faces import FaceFinder
        from veilcam.camera.audit_recognizers import load_recognizers, model_folders

        self._finder = FaceFinder(min_score=_MIN_SCORE)
        own = model_folders()[-1:]  # the package's, whatever lies elsewhere
        self._recognizer = load_recognizers(own, threads=1)[0]

    def __call__(self, original: Picture, output: Picture) -> float | None:
        """The higher of: looked at in place, and at the face found there. None: nothing to see."""
        faces = [f for f in self._finder(original) if min(f.box_xywh[2:]) >= _MIN_FACE_PX]
        if not faces:
            return None
        own = self._recognizer(original, faces[0])
        views = [faces[0], *(f for f in self._finder(output) if faces[0].is_at(f))]
        similarities = [float(own @ self._recognizer(output, view)) for view in views]
        return math.nan if any(map(math.isnan, similarities)) else max(similarities)


class Watch:
    """Takes samples, and says which strength the loop is to use.

    Args:
        judge: Compares two crops; None where it could not be loaded.
        strength: The user's, which is the floor.
        apply: Told of a new strength, in the loop's own thread.
        limit: Similarity from which two faces are of one person.
        now_s: The clock.
    """

    def __init__(
        self, judge: Judge | None, strength: Strength, apply: Callable[[Strength], None], *,
        limit: float = LIMIT, now_s: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._judge, self._apply, self._now_s = judge, apply, now_s
        self._light = LightAudit(LightAuditConfig(limit=limit, floor=strength), strength)
        self._applied = strength
        self._due_s = now_s()
        self._thread: threading.Thread | None = None
        self._num_offered = self._num_unjudged = self._num_faults = 0
        self._is_broken, self._was_broken = judge is None, False

    @property
    def is_blank(self) -> bool:
        """True where no strength is left that hides the original: heads are not to be shown."""
        return self._applied is Strength.BLANK

    def begin_frame(self) -> None:
        """Applies what the last sample said; called by the loop before each frame."""
        if self._is_broken and not self._was_broken:
            self._was_broken = True
            _log.warning("audit: it cannot compare faces; the picture goes on without it")
        strength = self._light.strength
        if strength is self._applied:
            return
        is_up = list(Strength).index(strength) > list(Strength).index(self._applied)
        self._applied = strength
        self._apply(strength)
        if is_up:
            _log.warning("audit: originals are recognized in the output; strength rises to %s",
                         strength.value)  # fmt: skip
        else:
            _log.info("audit: nobody recognized for long; strength falls to %s", strength.value)

    def offer(
        self, original: Picture, output: Picture, hulls: tuple[Float[np.ndarray, "n 2"], ...]
    ) -> None:
        """Samples one of the heads where a sample is due; any fault stays in here."""
        try:
            if self._judge is None or not hulls or self._now_s() < self._due_s or self._is_busy():
                return
            hull = hulls[self._num_offered % len(hulls)]
            self._num_offered += 1
            pair = (_crop(original, hull), _crop(output, hull))
            self._due_s = math.inf  # until this one has been judged
            self._thread = threading.Thread(target=self._work, args=pair, daemon=True)
            self._thread.start()
        except Exception:  # the audit may fail, the loop may not
            self._broke()
            self._due_s = self._now_s() + _CALM_S

    def drain(self, timeout_s: float = _DRAIN_S) -> None:
        """Waits for the sample in hand."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def to_json(self) -> dict[str, Any]:
        """State: names and counters only."""
        return self._light.to_json() | {
            "state": "broken" if self._is_broken else "watching",
            "unjudged": self._num_unjudged,
            "faults": self._num_faults,
        }

    def _is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _work(self, original: Picture, output: Picture) -> None:
        start_s, wait_s, share = time.thread_time(), _CALM_S, _CALM_SHARE
        try:
            with suppress(OSError, AttributeError):  # on Linux every thread has its own priority
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            assert self._judge is not None
            similarity = self._judge(original, output)
            if similarity is None:
                self._num_unjudged += 1
            elif not math.isfinite(similarity):
                self._broke()
            else:
                self._is_broken = False
                self._light.add(similarity)
                if self._light.is_suspicious:
                    wait_s, share = _SUSPECT_S, _SUSPECT_SHARE
        except Exception:  # as above
            self._broke()
        finally:
            spent_s = time.thread_time() - start_s
            self._due_s = self._now_s() + max(wait_s, spent_s / share)

    def _broke(self) -> None:
        self._num_faults += 1
        self._is_broken = True


def watch_for(apply: Callable[[Strength], None]) -> Watch | None:
    """The watch of a new loop, None where none was asked for."""
    if not watch_chosen():
        return None
    judge: Judge | None = None
    try:
        judge = FaceJudge()
    except Exception as error:  # reported by its state; the loop does not need it
        _log.warning("audit: cannot start (%s)", type(error).__name__)
    return Watch(judge, chosen(), apply)


def _crop(bgr: Picture, hull: Float[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "crop_h crop_w 3"]:
    """A copy of a hull's surroundings, its longer side at most `_MAX_CROP_PX`."""
    low, high = hull.min(0), hull.max(0)
    margin = _MARGIN * (high - low)
    x1, y1 = np.maximum(low - margin, 0).astype(int)
    x2, y2 = np.minimum(high + margin + 1, (bgr.shape[1], bgr.shape[0])).astype(int)
    part = bgr[y1:y2, x1:x2]
    scale = _MAX_CROP_PX / max(part.shape[:2])
    if scale >= 1:
        return np.array(part)
    size = (max(int(part.shape[1] * scale), 1), max(int(part.shape[0] * scale), 1))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA))
