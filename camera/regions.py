"""Boxes of the detector: sizes of its pictures, tiles, and regions on the net's grid."""

import numpy as np

from veilcam.camera.changes import Box
from veilcam.camera.tiles import Corner
from veilcam.camera.yunet import GRID_PX

BORDER_PX = 32  # mirrored border: the missing half of a face that the frame's edge cuts
OVERLAP_PX = 48
_TILE_RIM_PX = 12
Region = tuple[int, int, int, int]  # left, top, right, bottom in the bordered small picture


def fit(width: int, height: int, area_px: int) -> tuple[int, int]:
    """Width and height of the frame shrunk to `area_px` (never grown), at least 32."""
    scale = min(1.0, float(np.sqrt(area_px / (width * height))))
    return max(round(width * scale), 32), max(round(height * scale), 32)


def starts(length: int, tile: int) -> list[int]:
    """First pixel of tiles that cover `length` with an overlap."""
    if length <= tile:
        return [0]
    num_tiles = int(np.ceil((length - OVERLAP_PX) / (tile - OVERLAP_PX)))
    return [round(i * (length - tile) / (num_tiles - 1)) for i in range(num_tiles)]


def snapped(box: Box, coarse_wh: tuple[int, int]) -> Region:
    """Box of the small picture, rounded outward to the net's grid in the bordered picture.

    What comes close to the picture's edge takes in the border there, too.
    """
    sides = []
    for low, high, length in zip(box[:2], box[2:], coarse_wh, strict=True):
        whole = -(-(length + 2 * BORDER_PX) // GRID_PX) * GRID_PX
        first = int((low + BORDER_PX) // GRID_PX) * GRID_PX
        last = int(-(-(high + BORDER_PX) // GRID_PX)) * GRID_PX
        sides.append(
            (0 if first <= BORDER_PX else first, whole if last >= length else min(last, whole))
        )
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def grown(box: Box, margin: float) -> Box:
    """The box with `margin` more on each side."""
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def overlap(a: Box, b: Box) -> bool:
    """True where the boxes share some area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def holds(outer: Box, inner: Box) -> bool:
    """True where `inner` lies wholly in `outer`."""
    return bool(
        outer[0] <= inner[0] and outer[1] <= inner[1]
        and outer[2] >= inner[2] and outer[3] >= inner[3]
    )  # fmt: skip


def seen_well(corner: Corner, tile_wh: tuple[int, int], fine_wh: tuple[int, int]) -> Box:
    """The part of a tile in which a face lies whole and with what is around it."""
    sides = []
    for low, length, whole in zip(corner, tile_wh, fine_wh, strict=True):
        high = low + length
        sides.append(
            (
                float(low + _TILE_RIM_PX) if low > 0 else -np.inf,
                float(high - _TILE_RIM_PX) if high < whole else np.inf,
            )
        )
    (left, right), (top, bottom) = sides
    return left, top, right, bottom
