"""Finds the smallest edit by which a substitute's hashes leave those of the original."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.errors import SourceError
from veilcam.camera.search_edits import Edit, apply_edit, draw_edit
from veilcam.camera.search_hashes import Reference

LEVELS = (0.0, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
DRAWS = 16  # of a level
MIN_SIMILARITY = 0.7  # cosine of content features to the unchanged substitute
_SIDE_PX = 256  # on which edits are tried
Features = Callable[[np.ndarray], np.ndarray]
Bgr = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, slots=True, eq=False)
class Escape:
    """An edited picture whose hashes are far enough, and how far.

    Attributes:
        bgr: Pixels to write.
        level: Of its edit, 0-1.
        distances: Hash name -> bits to the nearest of the original's eight views.
        similarity: Cosine of content features to the unedited picture; None without the net.
    """

    bgr: Bgr
    level: float
    distances: dict[str, int]
    similarity: float | None


class Content:
    """How alike two pictures are in what they show, by a general feature net.

    Args:
        features: BGR picture -> vector, or None where no net is at hand.
        bgr: What others are compared with.
    """

    def __init__(self, features: Features | None, bgr: Bgr) -> None:
        self._features = features
        self._own = None if features is None else _unit(features(bgr))

    def similarity(self, bgr: Bgr) -> float | None:
        """Cosine, 0 to 1; None without a net."""
        if self._features is None or self._own is None:
            return None
        return float(self._own @ _unit(self._features(bgr)))


def escape(
    safe_bgr: Bgr, reference: Reference, share: float, *, features: Features | None,
    as_written: Callable[[Bgr], Bgr],
) -> Escape:  # fmt: skip
    """The picture edited as little as needed.

    Args:
        safe_bgr: Pixels of the substitute, in the size to be written.
        reference: Hashes of the original.
        share: Wanted distance of every hash, in bits over its bits.
        features: Content net; edits that move its vector too far are not taken.
        as_written: Pixels -> what a reader of the file gets; distances are measured on that.

    Raises:
        SourceError: No edit that was tried goes far enough.
    """
    wanted = reference.wanted(share)
    small = _shrunk(safe_bgr)
    near, content = Content(features, small), Content(features, safe_bgr)
    random = np.random.default_rng(secrets.randbits(128))
    best = 0.0
    for level in LEVELS:
        for edit in _by_likeness(level, small, near, random):
            found = reference.distances(apply_edit(small, edit))
            best = max(best, _least(found, wanted) * share)
            if _least(found, wanted) < 1:
                continue
            bgr = as_written(apply_edit(safe_bgr, edit))
            found, similarity = reference.distances(bgr), content.similarity(bgr)
            if _least(found, wanted) >= 1 and (similarity is None or similarity >= MIN_SIMILARITY):
                return Escape(bgr, level, found, similarity)
    raise SourceError(
        f"stays too like the original: {best:.2f} of the hash bits differ at best, wanted"
        f" {share:.2f}; nothing was written: give a smaller --distance"
    )


def _by_likeness(
    level: float, small: Bgr, near: Content, random: np.random.Generator
) -> list[Edit]:
    """Edits of a level that keep what the picture shows, the most alike first."""
    edits = [draw_edit(level, random) for _ in range(DRAWS if level else 1)]
    scored = [(near.similarity(apply_edit(small, edit)), edit) for edit in edits]
    kept = [(value, edit) for value, edit in scored if value is None or value >= MIN_SIMILARITY]
    kept.sort(key=lambda pair: -(pair[0] or 0.0))
    return [edit for _, edit in kept]


def _least(found: dict[str, int], wanted: dict[str, int]) -> float:
    """Smallest of the distances over what is wanted of each."""
    return min(found[name] / wanted[name] for name in wanted)


def _shrunk(bgr: Bgr) -> UInt8[np.ndarray, "h2 w2 3"]:
    scale = _SIDE_PX / max(bgr.shape[:2])
    if scale >= 1:
        return bgr
    size_wh = tuple(max(round(side * scale), 1) for side in bgr.shape[1::-1])
    return np.asarray(cv2.resize(bgr, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))
