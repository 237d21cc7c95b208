"""Who is who in one album, so that the same person has the same stand-in: `album --consistent`.

Vectors of a recognizer are compared in this process's memory only. They are overwritten at the end,
and never pickled, written, logged or put into the code. What a viewer learns besides the code is
which heads were taken for the same person: that is what was asked for.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.audit_faces import Face, FaceFinder
from veilcam.camera.audit_recognizers import Recognizer, load_recognizers
from veilcam.camera.code import Casting, Encoder, StandIn
from veilcam.camera.light import skin_class
from veilcam.camera.track import Detection
from veilcam.camera.types import Codes, HeadCode, Scene

SAME_COSINE = 0.48  # chosen on people by scripts/album_consistency.py, see docs/album.md
MIN_FACE_PX = 36  # smaller faces look alike to recognizers: each has a stand-in of its own
_VIEW_PX = 320  # of the crop in which a face is measured again
_VIEW_FACTOR = 3.0  # its side over that of the face
_NEAR_PX = 40  # how far from the middle of that crop the face may be
Vector = Float32[np.ndarray, " d"]
Place = tuple[float, float]


@dataclass(slots=True, eq=False, repr=False)
class _Person:
    """One person of the album: the sum of their unit vectors, and their stand-in."""

    total: Vector
    stand_in: StandIn


class AlbumPeople:
    """The people of one album, met one picture after the other.

    A face belongs to the person whose mean vector is nearest, from `same_cosine` on; nobody is
    twice in one picture. Else somebody new is met, and keeps the stand-in that is drawn then.

    Args:
        recognizer: Face -> unit vector; by default the one in the package.
        same_cosine: Likeness from which on a face is of a person.

    Attributes:
        met: Number of the person of each head of the last picture whose face was large enough.
    """

    def __init__(
        self, recognizer: Recognizer | None = None, *, same_cosine: float = SAME_COSINE
    ) -> None:
        assets = Path(str(files("veilcam.camera") / "assets"))
        self._recognizer = recognizer or load_recognizers([assets])[0]
        self._finder, self._same_cosine = FaceFinder(), same_cosine
        self._people: list[_Person] = []
        self._here: list[tuple[Place, Vector | None]] = []
        self.met: list[int] = []

    def __repr__(self) -> str:
        return f"AlbumPeople({len(self._people)} people, vectors withheld)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("who is who must not be pickled: it never leaves the process")

    def begin(self) -> None:
        """A new picture, in which nobody was met yet."""
        self._here, self.met = [], []

    def look(self, bgr: UInt8[np.ndarray, "h w 3"], faces: tuple[Detection, ...]) -> None:
        """Measure the faces that stand upright in one view of the picture.

        Args:
            bgr: Raw pixels of the view.
            faces: As found in it.
        """
        self._here = [(_middle(face), self._vector(bgr, face)) for face in faces]

    def find(self, place: Place) -> tuple[int | None, Vector | None]:
        """Number of the known person whose face is nearest to a place, and the vector there."""
        if not self._here:
            return None, None
        vector = min(self._here, key=lambda face: np.hypot(*np.subtract(face[0], place)))[1]
        if vector is None or not self._people:
            return None, vector
        means = np.stack([p.total / np.linalg.norm(p.total) for p in self._people])
        likeness = means @ vector
        likeness[self.met] = -1.0
        best = int(likeness.argmax())
        if likeness[best] < self._same_cosine:
            return None, vector
        self.met.append(best)
        return best, vector

    def stand_in_of(self, number: int) -> StandIn:
        """What a person is shown as."""
        return self._people[number].stand_in

    def keep(self, number: int | None, vector: Vector | None, code: HeadCode) -> None:
        """After `find`: the head was painted by this code."""
        if vector is None:
            return
        if number is not None:
            self._people[number].total += vector
            return
        # in a head's first frame its skin has a class's own colour
        stand_in = StandIn(latent=code.latent, skin_class=skin_class(code.skin_bgr))
        self.met.append(len(self._people))
        self._people.append(_Person(vector.copy(), stand_in))

    def forget(self) -> None:
        """Overwrite all vectors, and know nobody any more."""
        for total in (person.total for person in self._people):
            total.fill(0)
        for vector in (vector for _, vector in self._here if vector is not None):
            vector.fill(0)
        self._people.clear()
        self.begin()

    def _vector(self, bgr: UInt8[np.ndarray, "h w 3"], face: Detection) -> Vector | None:
        x, y, w, h = face.box_xywh
        if max(w, h) < MIN_FACE_PX:
            return None
        scale = _VIEW_PX / (_VIEW_FACTOR * max(w, h))
        corner = np.array(_middle(face)) - _VIEW_PX / 2 / scale
        matrix = np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
        matrix[:, 2] = -scale * corner
        view = np.asarray(
            cv2.warpAffine(bgr, matrix, (_VIEW_PX, _VIEW_PX), borderMode=cv2.BORDER_REPLICATE),
            np.uint8,
        )
        # measured again upright: skewed crops of different people look alike to a recognizer
        seen = [f for f in self._finder(view) if np.abs(f.center - _VIEW_PX / 2).max() < _NEAR_PX]
        left, top = (np.array((x, y)) - corner) * scale
        landmarks = (np.asarray(face.landmarks, float) - corner) * scale
        given = Face((float(left), float(top), w * scale, h * scale), landmarks, face.score)
        return self._recognizer(view, seen[0] if seen else given).copy()


class PeopleEncoder:
    """The encoder of one view of a picture: people who are known get the stand-in that they had.

    Args:
        people: Who is known.
        make_encoder: Casting -> encoder.
        casting: Who plays a person that is new.
    """

    def __init__(
        self,
        people: AlbumPeople,
        make_encoder: Callable[[Casting], Encoder],
        casting: Casting | None,
    ) -> None:
        self._people, self._casting = people, casting
        self._encoder = make_encoder(self._cast)
        self._places: deque[tuple[int, Place]] = deque()
        self._found: dict[int, tuple[int | None, Vector | None]] = {}
        self._cast_ids: set[int] = set()

    def encode(self, scene: Scene, skin_bgr: dict[int, tuple[float, float, float]]) -> Codes:
        """As `Encoder.encode`, which casts the heads that are new in their order."""
        new = [head for head in scene.heads if head.track_id not in self._cast_ids]
        self._places = deque((head.track_id, head.center_xy) for head in new)
        self._cast_ids |= {head.track_id for head in new}
        codes = self._encoder.encode(scene, skin_bgr)
        for code in codes.heads:
            if code.track_id in self._found:
                self._people.keep(*self._found.pop(code.track_id), code)
        return codes

    def _cast(self, random: np.random.Generator) -> StandIn | None:
        said = self._casting(random) if self._casting is not None else None  # counts heads
        track_id, place = self._places.popleft()
        number, vector = self._people.find(place)
        self._found[track_id] = number, vector
        return said if number is None else self._people.stand_in_of(number)


def _middle(face: Detection) -> Place:
    x, y, w, h = face.box_xywh
    return x + w / 2, y + h / 2
