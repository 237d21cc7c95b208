"""An invisible mark in the pixels: "made by Veilcam". It outlives notes that a platform strips.

The mark is the same 64 bits in every picture, so it ties none of them together, and everybody can
read it, write it, or wash it out: it is a courtesy to those who look for it, and no proof.

The kept library is blind-watermark (singular values of 4x4 DCT blocks of a wavelet's low band).
"""

import importlib
import multiprocessing
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from veilcam.camera.errors import ConfigError, SourceError

MARK = b"VEILCAM1"
MIN_EQUAL = 56  # bits of 64; without a mark 32 to 37 were equal, see docs/album.md
MIN_PIXELS = 64 * 64 * 8  # each bit eight times
SIZES_PX = (2048, 1080, 640)  # longest sides at which a picture that was resized is read again
_PASSWORD = 1  # of the library; known to all, as the bits are


def load_library() -> Any:
    """The kept library, without its greeting. Raises ConfigError where it is not installed."""
    try:
        # it would choose for this whole process how processes start, and fails where that is chosen
        with patch.object(multiprocessing, "set_start_method"):
            library = importlib.import_module("blind_watermark")
    except ImportError as error:
        raise ConfigError(
            f"a watermark needs {error.name}: run ./scripts/setup watermark"
        ) from error
    library.bw_notes.close()  # it would print on stdout
    return library


def mark(bgr: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with the mark in it; about 38 dB from what it was.

    Raises:
        SourceError: It is too small for a mark.
    """
    library = load_library()
    if bgr.shape[0] * bgr.shape[1] < MIN_PIXELS:
        raise SourceError(f"has fewer than {MIN_PIXELS} pixels, too few for a watermark")
    writer = library.WaterMark(password_img=_PASSWORD, password_wm=_PASSWORD)
    writer.read_img(img=bgr)
    writer.read_wm(_bits(), mode="bit")
    return np.asarray(np.clip(np.round(writer.embed()), 0, 255), np.uint8)


def read(bgr: UInt8[np.ndarray, "h w 3"]) -> dict[str, Any]:
    """Whether the mark is in a picture, at its own size or at those that `social` makes.

    Returns:
        `is_found`; `bits_equal` of `bits` at best.
    """
    best = 0
    for width, height in _sizes(bgr.shape[1], bgr.shape[0]):
        resized = cv2.resize(bgr, (width, height)) if width != bgr.shape[1] else bgr
        best = max(best, _equal(np.asarray(resized, np.uint8)))
        if best >= MIN_EQUAL:
            break
    return {"is_found": best >= MIN_EQUAL, "bits_equal": best, "bits": 8 * len(MARK)}


def _equal(bgr: UInt8[np.ndarray, "h w 3"]) -> int:
    if bgr.shape[0] * bgr.shape[1] < MIN_PIXELS:
        return 0
    reader = load_library().WaterMark(password_img=_PASSWORD, password_wm=_PASSWORD)
    found = reader.extract(embed_img=bgr, wm_shape=8 * len(MARK), mode="bit")
    return int(((np.asarray(found) > 0.5) == _bits()).sum())


def _sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Own size, then each of `SIZES_PX` in the same proportions.

    >>> _sizes(640, 480)
    [(640, 480), (2048, 1536), (1080, 810)]
    """
    scales = [side / max(width, height) for side in SIZES_PX]
    sizes = [(width, height), *((round(width * s), round(height * s)) for s in scales)]
    return list(dict.fromkeys(sizes))


def _bits() -> Bool[np.ndarray, " n"]:
    return np.unpackbits(np.frombuffer(MARK, np.uint8)).astype(bool)
