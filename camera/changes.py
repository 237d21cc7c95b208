"""Where the picture changed since it was last searched: a new face can only appear there."""

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

CELL_PX = 16  # side of a cell in pixels of the small picture
_SHRINK = 4  # noise is averaged over this many pixels in each direction
_MIN_CHANGE = 8  # levels of one averaged point; sensor noise of 6 levels leaves about 1.5
_CUT_CHANGE = 18.0  # mean change between two frames that counts as another scene

Cells = Bool[np.ndarray, "rows columns"]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the small picture


class ChangeMap:
    """Compares each picture with what was there when each of its cells was last searched.

    The reference of a cell changes only when the cell is searched, so a slow change adds up until
    it is seen. The owner calls `update` once per frame, then `mark_searched` for what it searched.

    Attributes:
        cells: True where the last picture differs from its reference.
        is_cut: True where the last picture shows another scene than the one before it.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self._wh = (-(-size_hw[1] // _SHRINK), -(-size_hw[0] // _SHRINK))
        per_cell = CELL_PX // _SHRINK
        rows, columns = -(-self._wh[1] // per_cell), -(-self._wh[0] // per_cell)
        self._points = np.zeros((rows * per_cell, columns * per_cell), np.uint8)
        self._reference = np.zeros_like(self._points)
        self._before: np.ndarray | None = None
        self.cells: Cells = np.ones((rows, columns), bool)
        self.is_cut = True

    def update(self, small_bgr: UInt8[np.ndarray, "h w 3"]) -> None:
        """Take in the next picture; the first one is a cut and differs everywhere."""
        points = cv2.cvtColor(
            cv2.resize(small_bgr, self._wh, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY
        )
        self._points[: self._wh[1], : self._wh[0]] = points
        self.is_cut = self._before is None or (
            cv2.norm(points, self._before, cv2.NORM_L1) / points.size > _CUT_CHANGE
        )
        self._before = points
        rows, columns = self.cells.shape
        if self.is_cut:
            self.cells = np.ones((rows, columns), bool)
            return
        change = cv2.absdiff(self._points, self._reference)
        # nearest picks every fourth point of the running maximum: one for each cell
        per_cell = CELL_PX // _SHRINK
        highest = cv2.dilate(change, np.ones((per_cell, per_cell), np.uint8), anchor=(0, 0))
        self.cells = highest[::per_cell, ::per_cell] >= _MIN_CHANGE

    def mark_searched(self, box: Box) -> None:
        """What is shown in the cells that the box touches becomes their reference."""
        rows, columns = cells_of(box, self.cells.shape)
        per_cell = CELL_PX // _SHRINK
        points = (
            slice(rows.start * per_cell, rows.stop * per_cell),
            slice(columns.start * per_cell, columns.stop * per_cell),
        )
        self._reference[points] = self._points[points]

    def has_changed(self, box: Box) -> bool:
        """True where any cell that the box touches has changed."""
        return bool(self.cells[cells_of(box, self.cells.shape)].any())

    def region(self) -> Box | None:
        """Smallest box around all changed cells, or None where there are none."""
        rows, columns = np.flatnonzero(self.cells.any(1)), np.flatnonzero(self.cells.any(0))
        if not len(rows):
            return None
        low, high = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)
        left, top, right, bottom = (float(v * CELL_PX) for v in (*low, *high))
        return left, top, right, bottom


def cells_of(box: Box, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the cells that the box touches; empty where it is outside."""
    left, top = (max(int(np.floor(v / CELL_PX)), 0) for v in box[:2])
    right, bottom = (max(int(np.ceil(v / CELL_PX)), 0) for v in box[2:])
    return slice(min(top, shape[0]), bottom), slice(min(left, shape[1]), right)
