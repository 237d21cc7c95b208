"""Perceptual hashes, by which reverse-image search knows a picture again, and their distances.

pHash, dHash and wHash of ImageHash (64 bits each) and PDQ (256 bits). Two pictures that have
nothing to do with each other differ in about half of the bits; matchers call them the same up to
about 10 of 64, and PDQ's makers up to 31 of 256.
Source: ImageHash 4.3; PDQ: Facebook, "The TMK+PDQF video-hashing algorithm and the PDQ
image-hashing algorithm", 2019.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from veilcam.camera.errors import ConfigError

NAMES = ("phash", "dhash", "whash", "pdq")
_SIDE_PX = 512  # hashes look at no more than 64 x 64 of them
Hashes = Mapping[str, Bool[np.ndarray, " bits"]]


def load_hashers() -> tuple[Any, Any, Any]:
    """ImageHash, pdqhash and Pillow's Image. Raises ConfigError where one is not installed."""
    try:
        return tuple(importlib.import_module(m) for m in ("imagehash", "pdqhash", "PIL.Image"))  # type: ignore[return-value]
    except ImportError as error:
        raise ConfigError(
            f"hash distances need {error.name}: pip install 'veilcam[search]'"
        ) from error


def hashes_of(bgr: UInt8[np.ndarray, "h w 3"]) -> Hashes:
    """Hash name -> bits, of a picture shrunk to 512 pixels at most."""
    imagehash, pdqhash, image = load_hashers()
    rgb = np.ascontiguousarray(_shrunk(bgr)[..., ::-1])
    picture = image.fromarray(rgb)
    bits = {
        "phash": imagehash.phash(picture).hash,
        "dhash": imagehash.dhash(picture).hash,
        "whash": imagehash.whash(picture).hash,
        "pdq": pdqhash.compute(rgb)[0],
    }
    return {name: np.asarray(bits[name], bool).reshape(-1) for name in NAMES}


class Reference:
    """Hashes of a picture in its eight turned and mirrored ways: matchers look for these, too.

    Args:
        bgr: The picture that must not be known again; only its hashes are kept.
    """

    def __init__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> None:
        small = _shrunk(bgr)
        turned = [np.rot90(side, turn) for side in (small, small[:, ::-1]) for turn in range(4)]
        self._hashes = [hashes_of(np.ascontiguousarray(view)) for view in turned]
        self.num_bits = {name: self._hashes[0][name].size for name in NAMES}

    def distances(self, bgr: UInt8[np.ndarray, "h w 3"]) -> dict[str, int]:
        """Hash name -> bits in which a picture differs from the nearest of the eight."""
        seen = hashes_of(bgr)
        return {
            name: min(int((own[name] != seen[name]).sum()) for own in self._hashes)
            for name in NAMES
        }

    def wanted(self, share: float) -> dict[str, int]:
        """Hash name -> least distance that is this share of its bits."""
        return {name: int(np.ceil(share * bits)) for name, bits in self.num_bits.items()}


def _shrunk(bgr: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
    scale = _SIDE_PX / max(bgr.shape[:2])
    if scale >= 1:
        return bgr
    size_wh = tuple(max(round(side * scale), 1) for side in bgr.shape[1::-1])
    return np.asarray(cv2.resize(bgr, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
