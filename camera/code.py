"""The code: the few typed, quantized, counted bits by which a person's pixels reach the output."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from veilcam.camera.expression import scale_for
from veilcam.camera.light import DEFAULT_SKIN_BGR, SKIN_CLASSES, TrackSkin
from veilcam.camera.strength import Plan, Strength, chosen, plan_of
from veilcam.camera.types import Codes, Head, HeadCode, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One number of the code.

    Attributes:
        name: What it tells.
        low, high: Range in the field's unit; values outside are clipped.
        bits: Width; the range is cut into 2**bits equal levels.
        kind: `dynamic` is sent for each frame, `static` once for each track.
    """

    name: str
    low: float
    high: float
    bits: int
    kind: Literal["dynamic", "static"] = "dynamic"

    @property
    def step(self) -> float:
        """Width of one level in the field's unit."""
        return float((self.high - self.low) / 2**self.bits)

    def quantize(self, value: float) -> int:
        """Level of a value, clipped into the range; NaN gives the middle level.

        >>> Field(name="yaw", low=-60.0, high=60.0, bits=5).quantize(-100)
        0
        """
        if not np.isfinite(value):
            return int(2 ** (self.bits - 1))
        return int(np.clip((value - self.low) // self.step, 0, 2**self.bits - 1))

    def dequantize(self, level: int) -> float:
        """Middle of a level."""
        return float(self.low + (level + 0.5) * self.step)


# Units: degrees; eye distances of the head model; eye widths for gaze; log2 brightness for light.
HEAD_FIELDS = (
    Field(name="yaw", low=-60.0, high=60.0, bits=5),
    Field(name="pitch", low=-32.0, high=32.0, bits=4),
    Field(name="mouth_open", low=0.0, high=0.40, bits=3),
    Field(name="mouth_wide", low=0.66, high=1.10, bits=3),
    Field(name="smile", low=-0.03, high=0.17, bits=3),
    Field(name="eyelid_left", low=0.0, high=0.18, bits=2),
    Field(name="eyelid_right", low=0.0, high=0.18, bits=2),
    Field(name="gaze_x", low=-0.24, high=0.24, bits=3),
    Field(name="gaze_y", low=-0.08, high=0.16, bits=3),
    Field(name="brow", low=0.29, high=0.49, bits=2),
    Field(name="light_x", low=-1.6, high=1.6, bits=3),
    Field(name="light_y", low=-1.0, high=1.4, bits=2),
)
# placed by compose, not painted by the generator
POSITION_STEP_PX = 2.0
SIZE_STEP_PX = 2.0
ROLL_STEP_DEG = 2.0
BITS_PER_FRAME = sum(field.bits for field in HEAD_FIELDS)


def dequantize_levels(levels: Int64[np.ndarray, "*n f"]) -> Float32[np.ndarray, "*n f"]:
    """Middle of each level, fields in `HEAD_FIELDS` order along the last axis."""
    low = np.array([field.low for field in HEAD_FIELDS], np.float32)
    step = np.array([field.step for field in HEAD_FIELDS], np.float32)
    return (low + (levels + 0.5) * step).astype(np.float32)


# Smoothing happens after rounding, so it can only lose information; value: weight of a new frame.
_PLACE_WEIGHT = 0.5
_VALUE_WEIGHT = 0.55
_FAST_WEIGHT = 0.8
_FAST_FIELDS = ("eyelid_left", "eyelid_right", "mouth_open")
_NUM_CANDIDATES = 12
_HYSTERESIS = 0.2  # a level is left only when the value is this many steps outside of it


def levels_of(field: Field, plan: Plan) -> tuple[int, ...]:
    """The levels of a field that a plan may send."""
    return plan.coarse.get(field.name, tuple(range(2**field.bits)))


def quantize_at(field: Field, value: float, plan: Plan, *, last: int | None = None) -> int:
    """Level of a value among those that the plan may send: the nearest, or `last` if still near."""
    allowed = levels_of(field, plan)
    level = field.quantize(value)
    if np.isfinite(value) and last is not None:
        place = min(max(value, field.low), field.high)
        gap = min((abs(last - other) for other in allowed if other != last), default=1)
        if abs(place - field.dequantize(last)) < (0.5 * gap + _HYSTERESIS) * field.step:
            return last
    if level in allowed:
        return level
    place = (
        min(max(value, field.low), field.high) if np.isfinite(value) else field.dequantize(level)
    )
    return min(allowed, key=lambda other: abs(field.dequantize(other) - place))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StandIn:
    """What stays the same about a stand-in whose looks come from words.

    Attributes:
        latent: Looks, (z,).
        skin_class: Of `light.SKIN_CLASSES`.
    """

    latent: Float32[np.ndarray, " z"]
    skin_class: int


# Noise -> who plays the next person, or None where nothing was said of this one.
Casting = Callable[[np.random.Generator], StandIn | None]


class _TrackCode:
    """What the encoder remembers of one track: its latent, skin, last levels and smoothed code."""

    def __init__(
        self, latent: Float32[np.ndarray, " z"], skin: TrackSkin, strength: Strength
    ) -> None:
        self.latent, self.skin = latent, skin
        self.scale = scale_for(strength)
        self._plan = plan_of(strength)
        self.levels: tuple[int, ...] | None = None
        self.values: Float32[np.ndarray, " f"] | None = None
        self.place: Float32[np.ndarray, " 4"] | None = None

    def quantize(self, values: dict[str, float]) -> tuple[int, ...]:
        levels = []
        for index, field in enumerate(HEAD_FIELDS):
            value = values.get(field.name, 0.0)
            last = self.levels[index] if self.levels is not None else None
            levels.append(quantize_at(field, value, self._plan, last=last))
        self.levels = tuple(levels)
        return self.levels

    def smooth(
        self, levels: tuple[int, ...], place: Float32[np.ndarray, " 4"]
    ) -> tuple[Float32[np.ndarray, " f"], Float32[np.ndarray, " 4"]]:
        fresh = np.array(
            [f.dequantize(level) for f, level in zip(HEAD_FIELDS, levels, strict=True)], np.float32
        )
        if self.values is None or self.place is None:
            self.values, self.place = fresh, place
        weight = np.array(
            [_FAST_WEIGHT if f.name in _FAST_FIELDS else _VALUE_WEIGHT for f in HEAD_FIELDS],
            np.float32,
        )
        self.values = self.values + weight * (fresh - self.values)
        self.place = self.place + np.float32(_PLACE_WEIGHT) * (place - self.place)
        return self.values, self.place


class Encoder:
    """Turns scenes into codes and remembers each track's secret latent.

    The latent is drawn once per track from the latents' Gaussian by a generator seeded from the
    operating system, which nothing can fix from outside: fresh noise in each frame would average
    out.

    Args:
        mean: Mean of the latents, (z,).
        chol: Lower Cholesky factor of their covariance, (z, z).
        skin: Linear guess of a latent's skin colour, (3, z + 1), see `manifest.Bundle`.
        truncation: Factor below 1 draws nearer to the mean: plainer but cleaner stand-ins.
        strength: How much of a person's own may pass; by default what the process has chosen.
        casting: Looks of each new stand-in from words; None, or where it gives None: drawn.
    """

    def __init__(
        self,
        mean: Float32[np.ndarray, " z"],
        chol: Float32[np.ndarray, "z z"],
        skin: Float32[np.ndarray, "3 z1"],
        *,
        truncation: float = 0.75,
        strength: Strength | None = None,
        casting: Casting | None = None,
    ) -> None:
        self._casting = casting
        self._mean = mean.astype(np.float32)
        self._chol = chol.astype(np.float32)
        self._skin = skin
        self._truncation = truncation
        self.strength = chosen() if strength is None else strength
        self._random = np.random.default_rng(secrets.randbits(128))
        self._tracks: dict[int, _TrackCode] = {}

    @property
    def track_ids(self) -> frozenset[int]:
        """Tracks whose stand-in is drawn already."""
        return frozenset(self._tracks)

    def set_strength(self, strength: Strength) -> None:
        """Use another strength from the next frame on.

        A higher one holds for everybody at once, with stand-ins drawn anew: one that happens to
        look like its original is gone, too. A lower one holds for new tracks only. Who is drawn
        anew has a skin class drawn anew, too: its epsilons add up over the strengths.
        """
        order = list(Strength)
        if order.index(strength) > order.index(self.strength):
            self._tracks = {}
        self.strength = strength

    def encode(self, scene: Scene, skin_bgr: dict[int, tuple[float, float, float]]) -> Codes:
        """The code of one frame; `skin_bgr` holds the measured skin colour of each track."""
        present = {head.track_id for head in scene.heads}
        self._tracks = {k: v for k, v in self._tracks.items() if k in present}
        heads = tuple(self._encode_head(h, skin_bgr.get(h.track_id)) for h in scene.heads)
        return Codes(size_hw=scene.size_hw, heads=heads, blank_reason=scene.blank_reason)

    def _encode_head(self, head: Head, skin: tuple[float, float, float] | None) -> HeadCode:
        track = self._tracks.get(head.track_id)
        if track is None:
            track = self._new_track(skin or DEFAULT_SKIN_BGR)
            self._tracks[head.track_id] = track
        measured = dict(head.expression)
        if measured:  # a head that was only detected has no pitch that means anything
            measured["pitch"] = head.pitch_deg
        levels = track.quantize({**track.scale(measured), "yaw": head.yaw_deg})
        rounded = np.array(
            [
                _round(head.center_xy[0], POSITION_STEP_PX),
                _round(head.center_xy[1], POSITION_STEP_PX),
                max(_round(head.size_px, SIZE_STEP_PX), SIZE_STEP_PX),
                _round(head.roll_deg, ROLL_STEP_DEG),
            ],
            np.float32,
        )
        values, place = track.smooth(levels, rounded)
        return HeadCode(
            track_id=head.track_id,
            levels=levels,
            values=values,
            latent=track.latent,
            center_xy=(float(place[0]), float(place[1])),
            size_px=float(place[2]),
            roll_deg=float(place[3]),
            skin_bgr=track.skin(skin or DEFAULT_SKIN_BGR),
            hull_xy=head.hull_xy,
        )

    def _new_track(self, skin_bgr: tuple[float, float, float]) -> _TrackCode:
        """Draws what a track keeps. The stand-in is drawn after the skin class that is sent."""
        person = self._casting(self._random) if self._casting is not None else None
        if person is not None:  # skin and looks come from words: nothing of the person's own
            skin = TrackSkin(skin_bgr, epsilon=0.0, random=self._random)
            skin.skin_class = person.skin_class
            return _TrackCode(person.latent, skin, self.strength)
        epsilon = plan_of(self.strength).skin_epsilon
        skin = TrackSkin(skin_bgr, epsilon=epsilon, random=self._random)
        latent = self.draw_for(SKIN_CLASSES[skin.skin_class], self._random)
        return _TrackCode(latent, skin, self.strength)

    def draw_for(
        self, skin_bgr: tuple[float, float, float], random: np.random.Generator
    ) -> Float32[np.ndarray, " z"]:
        """Of some random people the one whose skin goes best with the skin class that is sent."""
        noise = random.standard_normal((_NUM_CANDIDATES, len(self._mean)))
        people = self._mean + self._truncation * (noise.astype(np.float32) @ self._chol.T)
        colours = people @ self._skin[:, :-1].T + self._skin[:, -1]
        log_ratio = np.log(np.clip(colours, 8, 255)) - np.log(np.maximum(skin_bgr, 8))
        distance = np.square(log_ratio).sum(1)
        return np.asarray(people[int(np.argmin(distance))], np.float32)


def _round(value: float, step: float) -> float:
    return float(np.round(value / step) * step)
