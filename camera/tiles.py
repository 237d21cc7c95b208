"""Which fine tiles of a frame are searched next: changed ones in turns, places of doubt between."""

import numpy as np

from veilcam.camera.changes import CELL_PX, Box, Cells, cells_of

Corner = tuple[int, int]  # left, top in pixels of the fine picture
_TILES_AFTER_CUT = 4  # per frame, until all were searched
_QUIET_TURNS = 4  # tiles in which nothing changed are looked at in every fourth frame only


class TileTurns:
    """Hands out tiles, one or none for each frame.

    Args:
        corners: Left top corners of the tiles; none where one scale is enough.
        tile_wh, fine_wh: Width and height of a tile and of the fine picture.
    """

    def __init__(
        self, corners: list[Corner], tile_wh: tuple[int, int], fine_wh: tuple[int, int]
    ) -> None:
        self._corners, self._tile_wh, self._fine_wh = corners, tile_wh, fine_wh
        self._dirty_since: list[int | None] = [0] * len(corners)  # turn, or None where clean
        self._urgent: list[int] = []
        self._turn = self._next = 0

    def mark(self, cells: Cells, hidden: list[Box], coarse_wh: tuple[int, int]) -> None:
        """Note the tiles in which something changed.

        Args:
            cells: Change map of the coarse picture.
            hidden: Boxes in the coarse picture that are hidden anyway: no reason to look there.
            coarse_wh: Width and height of the coarse picture.
        """
        seen = cells.copy()
        for box in hidden:
            seen[cells_of(_shrunk(box), cells.shape)] = False
        if not seen.any():
            return
        scale_x, scale_y = (c / f for c, f in zip(coarse_wh, self._fine_wh, strict=True))
        for i, (left, top) in enumerate(self._corners):
            right, bottom = left + self._tile_wh[0], top + self._tile_wh[1]
            box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
            if self._dirty_since[i] is None and seen[cells_of(box, cells.shape)].any():
                self._dirty_since[i] = self._turn

    def take(self, doubt_xy: list[tuple[float, float]], *, is_cut: bool) -> list[Corner]:
        """Tiles to search now.

        Args:
            doubt_xy: Places in the fine picture worth a look, most urgent first.
            is_cut: The scene is another one: all tiles come soon, and the first time at once.
        """
        if not self._corners:
            return []
        if is_cut:
            is_first, self._turn = not self._turn, 1
            self._urgent = list(range(len(self._corners)))
            if is_first:
                return self._take(self._urgent)
        if self._urgent:
            return self._take(self._urgent[:_TILES_AFTER_CUT])
        self._turn += 1
        if doubt_xy and self._turn % 2:
            return [self._around(doubt_xy[(self._turn // 2) % min(len(doubt_xy), 2)])]
        order = [(self._next + i) % len(self._corners) for i in range(len(self._corners))]
        dirty = [i for i in order if self._dirty_since[i] is not None]
        if self._turn % 2 and not self._is_late(dirty):
            return []
        changed = dirty[0] if dirty else None
        if changed is None and self._turn % _QUIET_TURNS:
            return []
        index = order[0] if changed is None else changed
        self._next = index + 1
        return self._take([index])

    def _is_late(self, dirty: list[int]) -> bool:
        """True where a tile would wait longer for its turn than if all were walked over."""
        ages = [self._turn - since for i in dirty if (since := self._dirty_since[i]) is not None]
        return bool(ages) and max(ages) + 2 * len(ages) > len(self._corners)

    def _take(self, indices: list[int]) -> list[Corner]:
        self._urgent = [i for i in self._urgent if i not in indices]
        for i in indices:
            self._dirty_since[i] = None
        return [self._corners[i] for i in indices]

    def _around(self, place_xy: tuple[float, float]) -> Corner:
        (tile_w, tile_h), (fine_w, fine_h) = self._tile_wh, self._fine_wh
        left = int(np.clip(place_xy[0] - tile_w / 2, 0, fine_w - tile_w))
        return left, int(np.clip(place_xy[1] - tile_h / 2, 0, fine_h - tile_h))


def _shrunk(box: Box) -> Box:
    """The cells wholly inside the box, as a box."""
    left, top = (np.ceil(v / CELL_PX) * CELL_PX for v in box[:2])
    right, bottom = (np.floor(v / CELL_PX) * CELL_PX for v in box[2:])
    return float(left), float(top), float(right), float(bottom)
