"""The actor's code: pose by quantized key points, looks by a few classes drawn once per track."""

import secrets
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from veilcam.camera.actor_looks import CLASSES, PARTS, ActorPlan, actor_plan, draw_classes
from veilcam.camera.body_points import NUM_POINTS, POINT, POINT_NAMES
from veilcam.camera.code import Field
from veilcam.camera.scene_types import ActorCode, Box, People, Person, SceneCodes
from veilcam.camera.strength import Strength, chosen

PATCH_HW = (192, 96)  # of the generator's picture: the person's box, made 1:2 with a margin
MARGIN = 0.05  # of the patch's height above the head and below the feet
NUM_GARMENTS = 8
NUM_BUILDS = 4
_FULL_BITS = 5  # of a coordinate

# dynamic: place of each point in the patch, whether it is seen, where the body faces
DYNAMIC_FIELDS = (
    *(
        Field(name=f"{name}_{axis}", low=0.0, high=1.0, bits=_FULL_BITS)
        for name in POINT_NAMES
        for axis in "xy"
    ),
    *(Field(name=f"{name}_seen", low=0.0, high=1.0, bits=1) for name in POINT_NAMES),
    Field(name="facing", low=-180.0, high=180.0, bits=3),
)
BITS_PER_FRAME = sum(field.bits for field in DYNAMIC_FIELDS)

# slices of the vector that the generator is given
POINTS = slice(0, 2 * NUM_POINTS)
SEEN = slice(POINTS.stop, POINTS.stop + NUM_POINTS)
FACING = slice(SEEN.stop, SEEN.stop + 2)  # cosine and sine
COLOURS = slice(FACING.stop, FACING.stop + 12)  # top, bottom, hair, skin: BGR 0-1
GARMENT = slice(COLOURS.stop, COLOURS.stop + NUM_GARMENTS)
BUILD = GARMENT.stop
NUM_VALUES = BUILD + 1
NUM_STATIC = NUM_VALUES - COLOURS.start

_SEEN_SCORE = 0.3
_HYSTERESIS = 0.2  # a level is left only when the value is this many steps outside of it
# Smoothing happens after rounding, so it can only lose information: weight of a new frame.
_VALUE_WEIGHT, _PLACE_WEIGHT = 0.5, 0.4
_NUM_CANDIDATES = 12
_LATENT_NOISE = 0.15
_REFERENCE_HEIGHT = 720
_MAX_HEIGHTS = 3.0  # of the frame's longer side: what is larger is no person


def build_value(level: int) -> float:
    """What the generator is told of a build: -1 slight to 1 heavy."""
    return float(2 * level / (NUM_BUILDS - 1) - 1)


def framing(box_xywh: Box) -> tuple[float, float, float]:
    """Left, top and height of the 1:2 rectangle, margin included, made of a person's box."""
    x, y, width, height = box_xywh
    size = max(height, width * PATCH_HW[0] / PATCH_HW[1]) / (1 - 2 * MARGIN)
    return x + width / 2 - size / 4, y + height / 2 - size / 2, size


def neutral_values() -> Float32[np.ndarray, " f"]:
    """Somebody who stands upright, faces the camera and wears grey."""
    across = (0, 0.03, -0.03, 0.06, -0.06, 0.16, -0.16, 0.2, -0.2, 0.22, -0.22, 0.09, -0.09, 0.1,
              -0.1, 0.1, -0.1)  # fmt: skip
    down = (0.12, 0.1, 0.1, 0.11, 0.11, 0.22, 0.22, 0.35, 0.35, 0.46, 0.46, 0.5, 0.5, 0.71, 0.71,
            0.91, 0.91)  # fmt: skip
    out = np.zeros(NUM_VALUES, np.float32)
    out[POINTS] = np.stack([0.5 + np.array(across), down], axis=1).reshape(-1)
    out[SEEN], out[FACING.start], out[GARMENT.start] = 1.0, 1.0, 1.0
    out[COLOURS] = np.array(
        [(0.2, 0.2, 0.45), (0.3, 0.2, 0.15), (0.1, 0.12, 0.16), (0.5, 0.6, 0.8)]
    ).reshape(-1)
    return out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cast:
    """People who do not exist: a track's stand-in is drawn near one of them.

    Attributes:
        latents: One for each of them, (i, z).
        statics: Their static numbers: colours, garment, build, (i, 21).
    """

    latents: Float32[np.ndarray, "i z"]
    statics: Float32[np.ndarray, "i s"]


def quantize(person: Person, rectangle: tuple[float, float, float]) -> np.ndarray:
    """The dynamic numbers in their units, `DYNAMIC_FIELDS` order, of a person in a rectangle."""
    left, top, height = rectangle
    points = (person.points[:, :2] - (left, top)) / (height / 2, height)
    seen = (person.points[:, 2] >= _SEEN_SCORE).astype(float)
    return np.concatenate([points.reshape(-1), seen, [person.facing_deg]])


class _TrackCode:
    """What the encoder remembers of one track; its looks never change."""

    def __init__(
        self,
        classes: tuple[int, int, int, int],
        latent: Float32[np.ndarray, " z"],
        statics: Float32[np.ndarray, " s"],
    ) -> None:
        self.classes, self.latent, self.statics = classes, latent, statics
        self.levels: tuple[int, ...] | None = None
        self._values: Float32[np.ndarray, " d"] | None = None
        self._place: Float32[np.ndarray, " 3"] | None = None

    def smooth(
        self, values: Float32[np.ndarray, " d"], place: Float32[np.ndarray, " 3"]
    ) -> tuple[Float32[np.ndarray, " d"], Float32[np.ndarray, " 3"]]:
        if self._values is None or self._place is None:
            self._values, self._place = values, place
        self._values = self._values + np.float32(_VALUE_WEIGHT) * (values - self._values)
        self._place = self._place + np.float32(_PLACE_WEIGHT) * (place - self._place)
        return self._values, self._place


class ActorEncoder:
    """Turns people into codes and remembers each track's looks.

    Looks are drawn once per track: fresh noise in each frame would average out.

    Args:
        cast: Whom stand-ins are drawn near to.
        strength: How much of a person's own may pass; by default what the process has chosen.
    """

    def __init__(self, cast: Cast, *, strength: Strength | None = None) -> None:
        self._cast = cast
        self.strength = chosen() if strength is None else strength
        self.plan: ActorPlan = actor_plan(self.strength)
        self._random = np.random.default_rng(secrets.randbits(128))
        self._tracks: dict[int, _TrackCode] = {}

    def encode(self, people: People, light: tuple[int, int, int]) -> SceneCodes:
        """The code of one frame."""
        present = {person.track_id for person in people.people}
        self._tracks = {k: v for k, v in self._tracks.items() if k in present}
        actors = tuple(self._encode(person, people.size_hw) for person in people.people)
        return SceneCodes(size_hw=people.size_hw, actors=actors, light=light)

    @property
    def skin_classes(self) -> dict[int, int]:
        """The skin class that was sent of each track of the last frame."""
        return {track_id: track.classes[-1] for track_id, track in self._tracks.items()}

    def _encode(self, person: Person, size_hw: tuple[int, int]) -> ActorCode:
        track = self._tracks.get(person.track_id)
        if track is None:
            track = self._tracks[person.track_id] = self._new_track(person)
        step = self.plan.place_step_px * size_hw[0] / _REFERENCE_HEIGHT
        left, top, height = (round(v / step) * step for v in framing(person.box_xywh))
        height = min(max(height, step), _MAX_HEIGHTS * max(size_hw))
        # points are told in the rounded rectangle, so that its rounding moves nobody
        wanted = quantize(person, (left, top, height))
        levels = self._levels(wanted, track.levels)
        track.levels = levels
        place = np.array([left, top, height], np.float32)
        dynamic, place = track.smooth(to_values(levels, self.plan.point_bits), place)
        points = dynamic[POINTS].reshape(NUM_POINTS, 2)
        feet = points[[POINT["left_ankle"], POINT["right_ankle"]], 1].max()
        return ActorCode(
            track_id=person.track_id,
            levels=levels,
            values=np.concatenate([dynamic, track.statics]).astype(np.float32),
            latent=track.latent,
            left=float(place[0]),
            top=float(place[1]),
            height=float(place[2]),
            ground_y=float(place[1] + (min(feet, 1.0) + 0.02) * place[2]),
        )

    def _levels(self, values: np.ndarray, last: tuple[int, ...] | None) -> tuple[int, ...]:
        out = []
        for index, field in enumerate(DYNAMIC_FIELDS):
            width = _width(field, self.plan.point_bits)
            level = field.quantize(float(values[index])) // width
            if last is not None and field.bits == _FULL_BITS and np.isfinite(values[index]):
                middle = _middle(field, last[index], width)
                if abs(values[index] - middle) < (0.5 + _HYSTERESIS) * width * field.step:
                    level = last[index]
            out.append(level)
        return tuple(out)

    def _new_track(self, person: Person) -> _TrackCode:
        classes = draw_classes(person.colours_bgr, self.plan, random=self._random)
        colours = np.array([CLASSES[p][c] for p, c in zip(PARTS, classes, strict=True)]) / 255
        chosen_rows = self._random.integers(0, len(self._cast.latents), _NUM_CANDIDATES)
        # of some random people the one whose hair and skin go best with the classes that are sent
        theirs = self._cast.statics[chosen_rows, 6:12].reshape(-1, 2, 3)
        distance = np.square(np.sqrt(theirs) - np.sqrt(colours[2:])).sum((1, 2))
        row = int(chosen_rows[int(distance.argmin())])
        statics = self._cast.statics[row].copy()
        statics[:6] = colours[:2].reshape(-1)
        latent = self._cast.latents[row]
        latent = latent + _LATENT_NOISE * self._random.standard_normal(len(latent))
        return _TrackCode(classes, latent.astype(np.float32), statics)


def to_values(levels: tuple[int, ...], point_bits: int) -> Float32[np.ndarray, " d"]:
    """The dynamic part of the generator's vector: middles of levels, facing as cosine and sine."""
    middles = [
        _middle(field, level, _width(field, point_bits))
        for field, level in zip(DYNAMIC_FIELDS, levels, strict=True)
    ]
    out = np.empty(COLOURS.start, np.float32)
    out[: SEEN.stop] = middles[:-1]
    out[SEEN] = np.array(middles[SEEN]) > 0.5
    angle = np.deg2rad(middles[-1])
    out[FACING] = np.cos(angle), np.sin(angle)
    return out


def _width(field: Field, point_bits: int) -> int:
    """Full levels that a strength sends as one."""
    return int(2 ** (_FULL_BITS - point_bits)) if field.bits == _FULL_BITS else 1


def _middle(field: Field, level: int, width: int) -> float:
    return float(field.low + (level + 0.5) * width * field.step)
