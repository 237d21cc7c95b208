"""Frame -> face detections: YuNet where the picture changed, whole and on finer tiles in turns."""

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.changes import Box, ChangeMap
from veilcam.camera.patience import patience
from veilcam.camera.regions import (
    BORDER_PX,
    Region,
    fit,
    grown,
    holds,
    overlap,
    seen_well,
    snapped,
    starts,
)
from veilcam.camera.tiles import Corner, TileTurns
from veilcam.camera.track import NEW_SMALL_SCORE, Detection
from veilcam.camera.yunet import GRID_PX, YuNet, is_cut, merge

WHOLE_AREA_PX = 340_000  # frames up to this are searched in full resolution, without tiles
COARSE_AREA_PX = 480 * 270
FINE_AREA_PX = 960 * 540
TILE_HW = (270, 320)  # larger ones see prints on clothes as faces
WHOLE_EVERY_FRAMES = 15  # searched whole at least this often, changed or not
_MARGIN_PX = 32.0  # around what changed: a face is more than the part of it that moved
_WHOLE_SHARE = 0.75  # a region of more than this share of the picture is not worth cutting out
_TIMEOUT_S = 5.0


class FaceDetector:
    """Finds faces at two scales within a steady budget, on a thread of its own.

    A frame of up to 640x480 is searched as it is. A larger one is searched at about 480x270 and in
    one tile at up to 960x540. Both look only where the picture changed since it was last searched
    there, with a margin, because a face can only appear where something changes; what was found
    elsewhere stays. The whole picture is searched every `WHOLE_EVERY_FRAMES` all the same.

    The tiles walk over the frame in turns, and in every other frame go to a place of doubt
    instead. The first frame is searched whole at both scales; after a cut to a new scene the tiles
    are spread over a few frames, to keep the time of each steady.

    The owner calls `begin` and then `finish` from one thread. In between the detector reads the
    frame; nobody may write to it.

    Args:
        model: Path of the YuNet ONNX file, with free height and width.
    """

    def __init__(self, model: Path) -> None:
        self._net = YuNet(model)
        self._pool = ThreadPoolExecutor(1, "veilcam-faces")
        self._size_hw: tuple[int, int] | None = None
        self._search: Future[tuple[list[Detection], list[Detection]]] | None = None
        self._bgr: UInt8[np.ndarray, "h w 3"] | None = None
        self._is_planned = threading.Event()
        self._timeout_s = _TIMEOUT_S * patience()
        self._todo: deque[Corner] = deque()

    def __call__(
        self, bgr: UInt8[np.ndarray, "h w 3"], doubt_xy: tuple[tuple[float, float], ...] = ()
    ) -> tuple[Detection, ...]:
        """Faces with score >= 0.3, in frame pixels, each once: `begin` and `finish`."""
        self.begin(bgr, doubt_xy)
        return self.finish()

    def begin(
        self, bgr: UInt8[np.ndarray, "h w 3"], doubt_xy: tuple[tuple[float, float], ...] = ()
    ) -> None:
        """Start to search a frame.

        Args:
            bgr: Raw frame.
            doubt_xy: Places in frame pixels worth a finer look, most urgent first.
        """
        if self._search is not None:  # the owner failed in between: nothing of it may stay
            self._end_search()
        if self._size_hw != bgr.shape[:2]:
            self._prepare(bgr.shape[0], bgr.shape[1])
        self._is_planned.clear()
        self._bgr = bgr
        self._search = self._pool.submit(self._run, bgr, doubt_xy)

    def finish(self) -> tuple[Detection, ...]:
        """Faces of the frame given to `begin`; helps with tiles that are still to be searched.

        Raises:
            ValueError: The search failed; the next frame is searched as if it were the first.
        """
        search, bgr = self._search, self._bgr
        if search is None or bgr is None:
            raise ValueError("got finish(), wanted begin() before it")
        try:
            self._is_planned.wait(self._timeout_s)
            fine = self._search_tiles(bgr)
            found, more = search.result(self._timeout_s)
        except Exception:
            self.forget()
            raise
        finally:
            self._end_search()
        return self._remember(found, fine + more)

    def forget(self) -> None:
        """Take the next frame for the first one."""
        self._size_hw = None

    def _end_search(self) -> None:
        self._todo.clear()
        if self._search is not None:
            wait((self._search,), self._timeout_s)
        self._search = self._bgr = None

    def _prepare(self, height: int, width: int) -> None:
        self._size_hw = (height, width)
        is_small = width * height <= WHOLE_AREA_PX
        self._coarse_wh = fit(width, height, WHOLE_AREA_PX if is_small else COARSE_AREA_PX)
        self._fine_wh = fit(width, height, FINE_AREA_PX)
        self._to_frame = (width / self._coarse_wh[0], height / self._coarse_wh[1])
        self._changes = ChangeMap(self._coarse_wh[::-1])
        self._known: list[Detection] = []
        self._known_fine: list[Detection] = []
        self._region: Region = (0, 0, 0, 0)
        self._since_whole = 0
        fine_w, fine_h = self._fine_wh
        self._tile_wh = (min(TILE_HW[1], fine_w), min(TILE_HW[0], fine_h))
        is_finer = fine_w * fine_h > 1.2 * self._coarse_wh[0] * self._coarse_wh[1]
        corners = [
            (left, top)
            for top in starts(fine_h, self._tile_wh[1])
            for left in starts(fine_w, self._tile_wh[0])
            if is_finer
        ]
        self._turns = TileTurns(corners, self._tile_wh, self._fine_wh)
        self._searched: list[Corner] = []

    def _run(
        self, bgr: UInt8[np.ndarray, "h w 3"], doubt_xy: tuple[tuple[float, float], ...]
    ) -> tuple[list[Detection], list[Detection]]:
        """The detector's own thread: faces at the coarse and at the fine scale."""
        try:
            small = cv2.resize(bgr, self._coarse_wh, interpolation=cv2.INTER_LINEAR)
            self._changes.update(small)
            self._plan(doubt_xy)
        finally:
            self._is_planned.set()
        return self._search_coarse(small), self._search_tiles(bgr)

    def _plan(self, doubt_xy: tuple[tuple[float, float], ...]) -> None:
        """Choose the region and the tiles of this frame."""
        assert self._size_hw is not None
        changes = self._changes
        if changes.is_cut:
            self._known, self._known_fine = [], []
        self._since_whole += 1
        whole = (0.0, 0.0, float(self._coarse_wh[0]), float(self._coarse_wh[1]))
        tight = changes.region()
        if changes.is_cut or self._since_whole >= WHOLE_EVERY_FRAMES:
            self._region = snapped(whole, self._coarse_wh)
            changes.mark_searched(whole)
        elif tight is None:
            self._region = (0, 0, 0, 0)
        else:
            wide = self._with_known(grown(tight, _MARGIN_PX))
            self._region = snapped(wide, self._coarse_wh)
            changes.mark_searched(tight)
        hidden = [grown(box, 0.15 * (box[2] - box[0])) for box in map(self._coarse, self._known)]
        self._turns.mark(
            changes.cells, [box for box in hidden if box[2] - box[0] > 32], self._coarse_wh
        )
        doubts = [
            (x / self._size_hw[1] * self._fine_wh[0], y / self._size_hw[0] * self._fine_wh[1])
            for x, y in doubt_xy
        ]
        self._searched = self._turns.take(doubts, is_cut=changes.is_cut)
        self._todo.extend(self._searched)

    def _with_known(self, region: Box) -> Box:
        """The region grown around known faces that it would cut."""
        boxes = [grown(box, 0.25 * (box[2] - box[0])) for box in map(self._coarse, self._known)]
        while True:
            cut = [box for box in boxes if overlap(box, region)]
            boxes = [box for box in boxes if not overlap(box, region)]
            if not cut:
                return region
            sides = np.array([region, *cut])
            low, high = sides[:, :2].min(0), sides[:, 2:].max(0)
            region = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def _coarse(self, detection: Detection) -> Box:
        x, y, w, h = detection.box_xywh
        scale_x, scale_y = self._to_frame
        return x / scale_x, y / scale_y, (x + w) / scale_x, (y + h) / scale_y

    def _search_coarse(self, small: UInt8[np.ndarray, "h w 3"]) -> list[Detection]:
        """Faces in the chosen region; where one lies across its edge, in the whole picture."""
        width, height = self._coarse_wh
        whole = snapped((0.0, 0.0, float(width), float(height)), self._coarse_wh)
        if self._region[2] == 0:
            return []
        canvas = cv2.copyMakeBorder(
            small, BORDER_PX, whole[3] - BORDER_PX - height, BORDER_PX,
            whole[2] - BORDER_PX - width, cv2.BORDER_REFLECT,
        )  # fmt: skip
        found, num_cut = self._search_region(canvas, self._region)
        if num_cut:
            self._region = whole
            found, _ = self._search_region(canvas, whole)
        if self._region == whole:
            self._since_whole = 0
        return found

    def _search_region(
        self, canvas: UInt8[np.ndarray, "h w 3"], region: Region
    ) -> tuple[list[Detection], int]:
        """Faces in a part of the canvas, and how many more there are that its edges cut."""
        left, top, right, bottom = region
        (scale_x, scale_y), (width, height) = self._to_frame, self._coarse_wh
        offset = ((left - BORDER_PX) * scale_x, (top - BORDER_PX) * scale_y)
        found = self._net(canvas[top:bottom, left:right], self._to_frame, offset)
        inner = (
            offset[0] if left > 0 else -np.inf,
            offset[1] if top > 0 else -np.inf,
            (right - BORDER_PX) * scale_x if right < width + BORDER_PX else np.inf,
            (bottom - BORDER_PX) * scale_y if bottom < height + BORDER_PX else np.inf,
        )
        whole = [d for d in found if not is_cut(d, inner) and self._is_shown(d)]
        cut = [d for d in found if d.score >= NEW_SMALL_SCORE and is_cut(d, inner)]
        return whole, len(cut)

    def _search_tiles(self, bgr: UInt8[np.ndarray, "h w 3"]) -> list[Detection]:
        """Faces in the tiles that nobody has taken yet; runs in both threads."""
        found: list[Detection] = []
        while self._todo:
            try:
                corner = self._todo.popleft()
            except IndexError:  # the other thread was quicker
                break
            found += self._search_tile(bgr, corner)
        return found

    def _search_tile(self, bgr: UInt8[np.ndarray, "h w 3"], corner: Corner) -> list[Detection]:
        (tile_w, tile_h), (height, width) = self._tile_wh, bgr.shape[:2]
        scale = (width / self._fine_wh[0], height / self._fine_wh[1])
        x, y = int(corner[0] * scale[0]), int(corner[1] * scale[1])
        right = min(int(np.ceil((corner[0] + tile_w) * scale[0])), width)
        bottom = min(int(np.ceil((corner[1] + tile_h) * scale[1])), height)
        tile = cv2.resize(bgr[y:bottom, x:right], self._tile_wh, interpolation=cv2.INTER_LINEAR)
        edges = (y == 0, bottom == height, x == 0, right == width)
        above, below, before, after = (BORDER_PX * is_edge for is_edge in edges)
        below += -(tile_h + above + below) % GRID_PX
        after += -(tile_w + before + after) % GRID_PX
        tile = cv2.copyMakeBorder(tile, above, below, before, after, cv2.BORDER_REFLECT)
        offset = (x - before * scale[0], y - above * scale[1])
        inner = (
            float(x) if x > 0 else -np.inf,
            float(y) if y > 0 else -np.inf,
            float(right) if right < width else np.inf,
            float(bottom) if bottom < height else np.inf,
        )
        found = self._net(tile, scale, offset)
        return [d for d in found if not is_cut(d, inner) and self._is_shown(d)]

    def _is_shown(self, detection: Detection) -> bool:
        """False for the mirror picture of a face, in the border."""
        assert self._size_hw is not None
        x, y, w, h = detection.box_xywh
        is_in_x = -0.25 * w < x + w / 2 < self._size_hw[1] + 0.25 * w
        return is_in_x and -0.25 * h < y + h / 2 < self._size_hw[0] + 0.25 * h

    def _remember(self, found: list[Detection], fine: list[Detection]) -> tuple[Detection, ...]:
        """What was found now, and what was found before where nothing changed since."""
        is_whole = self._since_whole == 0
        for detection in self._known:
            if not is_whole and not self._changes.has_changed(self._coarse(detection)):
                found.append(detection)
        tiles = [seen_well(corner, self._tile_wh, self._fine_wh) for corner in self._searched]
        scale_x, scale_y = (f / c for f, c in zip(self._fine_wh, self._coarse_wh, strict=True))
        for detection in self._known_fine:
            x1, y1, x2, y2 = self._coarse(detection)
            box = (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y)
            is_searched = any(holds(tile, box) for tile in tiles)
            if not is_searched and not self._changes.has_changed((x1, y1, x2, y2)):
                fine.append(detection)
        self._known, self._known_fine = list(merge(found)), list(merge(fine))
        return merge(self._known + self._known_fine)
