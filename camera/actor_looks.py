"""Classes of colours that a track's looks are told in, and what each strength lets through."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from veilcam.camera.light import SKIN_CLASSES, randomized_response
from veilcam.camera.strength import Strength

# BGR 0-255
CLOTH_CLASSES = (
    (25.0, 25.0, 25.0), (60.0, 60.0, 60.0), (115.0, 115.0, 115.0), (185.0, 185.0, 185.0),
    (225.0, 225.0, 225.0), (70.0, 40.0, 28.0), (135.0, 75.0, 35.0), (190.0, 145.0, 95.0),
    (45.0, 40.0, 160.0), (40.0, 32.0, 85.0), (50.0, 80.0, 115.0), (140.0, 170.0, 195.0),
    (60.0, 160.0, 190.0), (70.0, 110.0, 60.0), (45.0, 65.0, 45.0), (115.0, 65.0, 110.0),
)  # fmt: skip
HAIR_CLASSES = (
    (22.0, 22.0, 24.0), (28.0, 36.0, 48.0), (38.0, 60.0, 84.0), (70.0, 106.0, 140.0),
    (110.0, 160.0, 196.0), (120.0, 122.0, 124.0), (205.0, 208.0, 210.0), (36.0, 66.0, 130.0),
)  # fmt: skip
PARTS = ("top", "bottom", "hair", "skin")
CLASSES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "top": CLOTH_CLASSES,
    "bottom": CLOTH_CLASSES,
    "hair": HAIR_CLASSES,
    "skin": SKIN_CLASSES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPlan:
    """What one strength does to an actor's fields.

    Attributes:
        epsilon: Of the randomized response of each of `PARTS`; 0 is a class at random.
        point_bits: Bits of each coordinate of a key point.
        place_step_px: Steps of the rectangle's place and height in a picture 720 high.
    """

    epsilon: tuple[float, float, float, float]
    point_bits: int
    place_step_px: float

    @property
    def track_epsilon(self) -> float:
        """Of all static fields of one track together (basic composition)."""
        return sum(self.epsilon)


_PLANS = {
    Strength.STRICT: ActorPlan(epsilon=(0.0, 0.0, 0.0, 0.0), point_bits=4, place_step_px=8.0),
    Strength.BALANCED: ActorPlan(epsilon=(1.5, 1.5, 0.5, 0.5), point_bits=5, place_step_px=4.0),
    Strength.FAITHFUL: ActorPlan(epsilon=(5.0, 5.0, 3.0, 3.0), point_bits=5, place_step_px=2.0),
}


def actor_plan(strength: Strength) -> ActorPlan:
    """What a strength does; what is no strength to run at is as `STRICT`."""
    return _PLANS.get(strength, _PLANS[Strength.STRICT])


def nearest_class(
    bgr: Float32[np.ndarray, "3"], classes: tuple[tuple[float, float, float], ...]
) -> int:
    """The class that a colour is nearest to, by square roots: dark colours are told apart too."""
    own, others = np.sqrt(np.clip(bgr, 0, 255)), np.sqrt(np.array(classes))
    return int(np.square(others - own).sum(1).argmin())


def draw_classes(
    colours_bgr: Float32[np.ndarray, "4 3"], plan: ActorPlan, *, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """The classes that are sent of a track, drawn once: top, bottom, hair, skin."""
    top, bottom, hair, skin = (
        randomized_response(
            nearest_class(colour, CLASSES[part]), len(CLASSES[part]), epsilon=eps, random=random
        )
        for part, colour, eps in zip(PARTS, colours_bgr, plan.epsilon, strict=True)
    )
    return top, bottom, hair, skin


def static_bits() -> float:
    """Bits of a track's classes."""
    return sum(math.log2(len(CLASSES[part])) for part in PARTS)
