"""The values of `scene` mode: people found, their codes, and the plate. Frozen, no logic."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.types import HeadCode, Patches

Box = tuple[float, float, float, float]  # left, top, width, height in frame pixels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Person:
    """One tracked person: what the code may be made of.

    Attributes:
        track_id: Number of the track, from 0, unique in one run.
        box_xywh: Whole body in frame pixels; may reach over the border where the frame cuts it.
        points: Key points x, y in frame pixels and score, COCO order.
        facing_deg: Where the body faces: 0 the camera, > 0 the right of the picture.
        colours_bgr: Colours of top, bottom, hair and skin as seen, 0-255.
        is_predicted: True where the person was not looked at in this frame.
    """

    track_id: int
    box_xywh: Box
    points: Float32[np.ndarray, "17 3"]
    facing_deg: float
    colours_bgr: Float32[np.ndarray, "4 3"]
    is_predicted: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class People:
    """What analysis found in one frame.

    Attributes:
        size_hw: Height and width of the frame in pixels.
        people: Everybody who is followed.
        hidden: Boxes that no background may be learned from: all detections and tracks, grown.
        is_alive: True where the detector has proved lately that it finds a person.
    """

    size_hw: tuple[int, int]
    people: tuple[Person, ...]
    hidden: tuple[Box, ...]
    is_alive: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActorCode:
    """All that the generator and the composition may know of one person.

    Attributes:
        track_id: Track the code belongs to.
        levels: Quantized dynamic fields, `actor_code.DYNAMIC_FIELDS` order.
        values: The vector for the generator, smoothed over time after quantization.
        latent: The track's secret noise, drawn once per track.
        left, top, height: Rectangle of the patch in frame pixels (its width is half its height),
            rounded to the code's steps, then smoothed.
        ground_y: Where the feet stand in frame pixels: who stands lower is in front.
    """

    track_id: int
    levels: tuple[int, ...]
    values: Float32[np.ndarray, " f"]
    latent: Float32[np.ndarray, " z"]
    left: float
    top: float
    height: float
    ground_y: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SceneCodes:
    """The code of one frame: everything a person's pixels can influence passes through it.

    Attributes:
        light: Gain of blue, green and red over the plate, in steps of `scene_light.STEP`.
    """

    size_hw: tuple[int, int]
    actors: tuple[ActorCode, ...]
    light: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """Heads of actors that are near.

    Attributes:
        codes: One for each; its track is the actor's.
        patches: Their pictures, in the same order.
    """

    codes: tuple[HeadCode, ...]
    patches: Patches


NO_HEADS = Heads(codes=(), patches=Patches(bgra=()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plate:
    """The background as it was released last.

    Attributes:
        bgr: Picture without people, or None while it is still being learned.
        known: Share of it that was learned, the rest is filled from around, 0-1; while there is
            no picture yet, how far learning has come.
        version: Grows with each release.
    """

    bgr: UInt8[np.ndarray, "h w 3"] | None
    known: float
    version: int
