"""Every face of one still picture: at all scales, to the last tile, also of heads that lie.

A camera shows a head again in the next frame; a picture has one chance. So stills are searched as a
pyramid, each level whole, in all four quarter turns, and weak finds count unless a second look says
that there is no face.
"""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from veilcam.camera.analysis import Analyser
from veilcam.camera.face_mesh import BOX_FACTOR, FaceMesh
from veilcam.camera.regions import BORDER_PX, fit
from veilcam.camera.track import KEEP_TRACK_SCORE, NEW_TRACK_SCORE, Detection, Tracker, box_iou
from veilcam.camera.types import Scene
from veilcam.camera.yunet import GRID_PX, YuNet, is_cut

LEVEL_AREAS_PX = (85_000, 340_000, 1_360_000, 3_000_000)  # up to this a face of 40 px in 12 MP
TURNED_LEVELS = 3  # of these, the first so many are also searched in quarter turns
TILE_PX = 1024
TILE_OVERLAP_PX = 128  # larger faces are found one level up
MAX_FACES = 64  # analysis follows no more
HIDE_SCORE = 0.45  # hidden without a second look: a wrong stand-in harms less than a face
TURNED_SCORE = 0.85  # as above, in a turned picture: hands look like faces from the side
MIN_FLAG = 0.62  # probability of the mesh from which it says: a face
_UPRIGHT_BONUS = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class StillFaces:
    """Faces by quarter turn.

    Attributes:
        by_turn: Quarter turn counter-clockwise -> faces that stand upright in the picture turned
            so, in the turned picture's pixels.
        is_full: True where there may be more than analysis can follow.
    """

    by_turn: dict[int, tuple[Detection, ...]]
    is_full: bool


class StillFinder:
    """Finds the faces of stills.

    Args:
        assets: Folder with yunet.onnx and facemesh.onnx; by default the package's own.
    """

    def __init__(self, assets: Path | None = None) -> None:
        folder = assets or Path(str(files("veilcam.camera") / "assets"))
        self._net = YuNet(folder / "yunet.onnx")
        self._mesh = FaceMesh(folder / "facemesh.onnx")

    def __call__(self, bgr: UInt8[np.ndarray, "h w 3"]) -> StillFaces:
        """All faces of a picture, each in the turn in which it was seen best.

        Args:
            bgr: Raw pixels, uint8, blue-green-red.

        Raises:
            ValueError: The detector's scores are not finite.
        """
        found: list[tuple[float, int, Detection]] = []
        for turn in range(4):
            turned = np.ascontiguousarray(np.rot90(bgr, turn))
            areas = LEVEL_AREAS_PX[: TURNED_LEVELS if turn else None]
            bonus = 0.0 if turn else _UPRIGHT_BONUS
            found += [
                (detection.score + bonus, turn, detection)
                for detection in self._search(turned, areas)
                if self._counts(turned, detection, is_turned=turn > 0)
            ]
        kept: list[tuple[tuple[float, float, float, float], int, Detection]] = []
        for _, turn, detection in sorted(found, key=lambda entry: -entry[0]):
            box = _unturned(detection.box_xywh, turn, (bgr.shape[0], bgr.shape[1]))
            if all(not _is_same(box, other) for other, _, _ in kept):
                kept.append((box, turn, detection))
        by_turn = {turn: tuple(_lifted(d) for _, t, d in kept if t == turn) for turn in range(4)}
        return StillFaces({k: v for k, v in by_turn.items() if v}, len(kept) >= MAX_FACES)

    def _counts(
        self, bgr: UInt8[np.ndarray, "h w 3"], detection: Detection, *, is_turned: bool
    ) -> bool:
        if detection.score >= (TURNED_SCORE if is_turned else HIDE_SCORE):
            return True
        if is_turned and detection.score < NEW_TRACK_SCORE:
            return False
        x, y, w, h = detection.box_xywh
        dx, dy = detection.landmarks[1] - detection.landmarks[0]
        roll_deg = float(np.rad2deg(np.arctan2(dy, max(abs(dx), 1e-6))))
        _, flag = self._mesh(bgr, (x + w / 2, y + h / 2), BOX_FACTOR * max(w, h), roll_deg)
        return not flag < MIN_FLAG  # NaN counts

    def _search(self, bgr: UInt8[np.ndarray, "h w 3"], areas: tuple[int, ...]) -> list[Detection]:
        height, width = bgr.shape[:2]
        found: list[Detection] = []
        last_wh = (0, 0)
        for area in areas:
            level_wh = fit(width, height, area)
            if level_wh == last_wh:
                break
            last_wh = level_wh
            small = cv2.resize(bgr, level_wh, interpolation=cv2.INTER_AREA)
            found += self._search_level(small, (width / level_wh[0], height / level_wh[1]))
        return [d for d in found if d.score >= KEEP_TRACK_SCORE]

    def _search_level(
        self, small: UInt8[np.ndarray, "h w 3"], scale: tuple[float, float]
    ) -> list[Detection]:
        """Faces of one level, in tiles, with a mirrored border round the picture."""
        height, width = small.shape[:2]
        extra = [-(side + 2 * BORDER_PX) % GRID_PX for side in (height, width)]
        canvas = cv2.copyMakeBorder(
            small, BORDER_PX, BORDER_PX + extra[0], BORDER_PX, BORDER_PX + extra[1],
            cv2.BORDER_REFLECT,
        )  # fmt: skip
        found: list[Detection] = []
        full_h, full_w = canvas.shape[:2]
        for top in _tile_starts(full_h):
            for left in _tile_starts(full_w):
                tile = canvas[top : top + TILE_PX, left : left + TILE_PX]
                offset = ((left - BORDER_PX) * scale[0], (top - BORDER_PX) * scale[1])
                bottom, right = top + tile.shape[0], left + tile.shape[1]
                inner = (
                    offset[0] if left else -np.inf,
                    offset[1] if top else -np.inf,
                    (right - BORDER_PX) * scale[0] if right < full_w else np.inf,
                    (bottom - BORDER_PX) * scale[1] if bottom < full_h else np.inf,
                )
                here = self._net(tile, scale, offset)
                found += [d for d in here if not is_cut(d, inner)]
        size_wh = (width * scale[0], height * scale[1])
        return [d for d in found if _is_shown(d, size_wh)]


def _tile_starts(length: int) -> list[int]:
    """First pixels of tiles on the net's grid that cover a side with an overlap.

    >>> _tile_starts(640), _tile_starts(2048)
    ([0], [0, 896, 1024])
    """
    if length <= TILE_PX:
        return [0]
    step = TILE_PX - TILE_OVERLAP_PX
    return [*range(0, length - TILE_PX, step), length - TILE_PX]


def _is_shown(detection: Detection, size_wh: tuple[float, float]) -> bool:
    """False for the mirror picture of a face, in the border."""
    x, y, w, h = detection.box_xywh
    is_in_x = -0.25 * w < x + w / 2 < size_wh[0] + 0.25 * w
    return is_in_x and -0.25 * h < y + h / 2 < size_wh[1] + 0.25 * h


def _is_same(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """True where two boxes show the same face."""
    if box_iou(a, b) > 0.3:
        return True
    dx, dy = (abs(a[i] + a[i + 2] / 2 - b[i] - b[i + 2] / 2) for i in (0, 1))
    # a small find in the middle of a face is its mouth or eye, not another head
    return bool(a[2] < b[2] and dx < b[2] / 4 and dy < b[3] / 4)


def _unturned(
    box: tuple[float, float, float, float], turn: int, size_hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box of `np.rot90(picture, turn)` in the picture itself.

    >>> _unturned((0.0, 0.0, 10.0, 20.0), 1, (100, 200))
    (180.0, 0.0, 20.0, 10.0)
    """
    x, y, w, h = box
    height, width = size_hw
    if turn == 1:
        return width - y - h, x, h, w
    if turn == 2:
        return width - x - w, height - y - h, w, h
    if turn == 3:
        return y, height - x - w, h, w
    return box


def _lifted(detection: Detection) -> Detection:
    """The same face with a score from which analysis hides it."""
    return replace(detection, score=max(detection.score, NEW_TRACK_SCORE))


class _Given:
    """Stands where analysis has its detector, and tells the faces it was given."""

    def __init__(self, faces: tuple[Detection, ...]) -> None:
        self._faces = faces

    def begin(
        self, bgr: UInt8[np.ndarray, "h w 3"], doubt_xy: tuple[tuple[float, float], ...] = ()
    ) -> None:
        """Nothing is left to search."""

    def finish(self) -> tuple[Detection, ...]:
        """The given faces."""
        return self._faces


class StillAnalyser(Analyser):
    """The camera's analysis, of one picture whose faces are known.

    It remembers nothing from one picture to the next.
    """

    is_full = False

    def take(self, faces: tuple[Detection, ...], *, is_full: bool = False) -> None:
        """Set the faces of the next picture; where there are too many it has to be blanked."""
        self._detector = _Given(faces)  # type: ignore[assignment]  # only begin and finish are used
        self._tracker = Tracker()
        self._looks = {}
        self.is_full = is_full

    def finish(self) -> Scene:
        """Every head; a reason to blank where the scene does not hold each of the given faces."""
        scene = super().finish()
        num_faces = len(self._detector.finish())
        if self.is_full:
            return replace(scene, blank_reason=f"{MAX_FACES} heads or more: some may be missed")
        if len(scene.heads) < num_faces:
            return replace(scene, blank_reason="not every head that was found could be followed")
        return scene
