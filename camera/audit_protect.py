"""A picture as each protection lets it out: the product's own loop, and peers at the same place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from veilcam.camera.analysis import Analyser
from veilcam.camera.code import HEAD_FIELDS, Encoder
from veilcam.camera.compose import hull_mask
from veilcam.camera.generator import Generator
from veilcam.camera.loop import Loop
from veilcam.camera.manifest import Bundle
from veilcam.camera.sink import MemorySink
from veilcam.camera.source import ArraySource
from veilcam.camera.types import Codes, Scene

PEERS = ("blur", "pixelate", "solid")
_BLUR_SHARE = 1 / 12  # standard deviation over the head's width
_PIXEL_SHARE = 1 / 12  # side of a pixelated cell over the head's width
_PLANTED_SHARE = 0.5  # how much of the original a planted leak lets through
_THUMB_PX = 12  # side of the thumbnail planted in a code
_PLANTED_PX = 32  # longer side of that original


@dataclass(frozen=True, slots=True, eq=False)
class Protected:
    """What left, and what is known of it.

    Attributes:
        bgr: The picture that may leave.
        code: All that the picture was made of, as one row of numbers in 0-1 (the largest head);
            None where no head was found.
        hulls: Regions that were hidden, picture pixels.
    """

    bgr: UInt8[np.ndarray, "h w 3"]
    code: Float32[np.ndarray, " c"] | None
    hulls: tuple[Float[np.ndarray, "_ 2"], ...]


@runtime_checkable
class Protection(Protocol):
    """One picture in, the protected one out, as for a person never seen before.

    Other modes (`scene`, `frame`) join the audit by another class with this one method.
    """

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> Protected:
        """The picture with everybody in it protected."""


class FaceProtection:
    """The product's loop in `face` mode on one picture: a fresh track, a fresh secret latent.

    Args:
        bundle: Verified bundle.
        generator: Its generator.
    """

    def __init__(self, bundle: Bundle, generator: Generator) -> None:
        self._bundle, self._generator = bundle, generator

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> Protected:
        """The picture with every head that analysis finds replaced."""
        bundle = self._bundle
        tap = _Tap(Encoder(bundle.mean, bundle.chol, bundle.skin))
        sink = MemorySink()
        Loop(ArraySource([bgr]), Analyser(), tap, self._generator, sink).run()
        heads = tap.codes.heads if tap.codes is not None else ()
        code = code_row(tap.codes) if tap.codes is not None else None
        return Protected(sink.frames[-1].bgr, code, tuple(h.hull_xy for h in heads))


def code_row(codes: Codes) -> Float32[np.ndarray, " c"] | None:
    """The dynamic fields and skin colour of the largest head, each scaled to 0-1."""
    if not codes.heads:
        return None
    head = codes.heads[0]
    levels = [
        level / (2**field.bits - 1) for level, field in zip(head.levels, HEAD_FIELDS, strict=True)
    ]
    place = [head.size_px / max(codes.size_hw), head.roll_deg / 180 + 0.5]
    skin = [c / 255 for c in head.skin_bgr]
    return np.array([*levels, *place, *skin], np.float32)


def protect_like(
    name: str, bgr: UInt8[np.ndarray, "h w 3"], hulls: tuple[Float[np.ndarray, "_ 2"], ...]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture as a peer would let it out, at the same places that the product hides."""
    change: Callable[[np.ndarray, float], np.ndarray] = {
        "blur": lambda r, w: cv2.GaussianBlur(r, (0, 0), max(w * _BLUR_SHARE, 1.0)),
        "pixelate": _pixelated,
        "solid": lambda r, _: np.full_like(r, 32),
    }[name]
    out = bgr.copy()
    for hull in hulls:
        mask = hull_mask((bgr.shape[0], bgr.shape[1]), (hull,))
        out[mask] = change(bgr, float(np.ptp(hull[:, 0])))[mask]
    return out


def plant_leak(
    original: UInt8[np.ndarray, "h w 3"], protected: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """A protected picture through which a thumbnail of the original shines: must be found."""
    scale = _PLANTED_PX / max(original.shape[:2]) * 2
    small = cv2.resize(original, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    ghost = cv2.resize(small, original.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.addWeighted(ghost, _PLANTED_SHARE, protected, 1 - _PLANTED_SHARE, 0))


def thumbnail(
    bgr: UInt8[np.ndarray, "h w 3"], box_xywh: tuple[float, float, float, float]
) -> Float32[np.ndarray, " t"]:
    """The face as 12x12 grey levels in 0-1: what a careless code would carry."""
    x, y, w, h = (round(v) for v in box_xywh)
    face = bgr[max(y, 0) : y + max(h, 2), max(x, 0) : x + max(w, 2)]
    crop = cv2.resize(face, (_THUMB_PX, _THUMB_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).reshape(-1) / 255, np.float32)


def copy_of(bgr: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """An unprotected copy as it travels: a JPEG of quality 80."""
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _pixelated(bgr: np.ndarray, width: float) -> np.ndarray:
    cell = max(width * _PIXEL_SHARE, 2.0)
    small_wh = (max(round(bgr.shape[1] / cell), 1), max(round(bgr.shape[0] / cell), 1))
    small = cv2.resize(bgr, small_wh, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, bgr.shape[1::-1], interpolation=cv2.INTER_NEAREST))


class _Tap:
    """An encoder that shows the audit the code it made."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.codes: Codes | None = None

    def encode(self, scene: Scene, skin_bgr: dict[int, tuple[float, float, float]]) -> Codes:
        self.codes = self._encoder.encode(scene, skin_bgr)
        return self.codes
