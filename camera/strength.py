"""Strengths `strict`, `balanced`, `faithful`: how much of a person's own each lets into the code.

Standard library only: both processes read this before their barriers are up.
"""

from dataclasses import dataclass, field
from threading import Lock

from veilcam.camera.audit_light import Strength

__all__ = ["CHOICES", "DEFAULT", "Plan", "Strength", "choose", "chosen", "plan_of"]

CHOICES = (Strength.STRICT, Strength.BALANCED, Strength.FAITHFUL)
DEFAULT = Strength.BALANCED


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one strength does to the fields.

    Attributes:
        has_own_rest: False leaves values as they were measured, but for a slow mean.
        reach: Field -> how far from the average head's value a rest is taken for the person's own
            and removed whole, from the first frame on; fields that are not named are not shifted.
        settle_frames: Frames of a new track in which the fields of `reach` stay at the average.
        coarse: Field -> levels that may be sent; fields that are not named may send each.
        skin_epsilon: Local differential privacy of a track's skin class, 0 for one at random.
    """

    has_own_rest: bool = True
    reach: dict[str, float] = field(default_factory=dict)
    settle_frames: int = 0
    coarse: dict[str, tuple[int, ...]] = field(default_factory=dict)
    skin_epsilon: float


_WHOLE = 1e3  # whatever the rest is, it is the person's own
_PLANS = {
    Strength.FAITHFUL: Plan(has_own_rest=False, skin_epsilon=4.0),
    Strength.BALANCED: Plan(
        reach={
            "pitch": 14.0,
            "mouth_open": 0.12,
            "mouth_wide": 0.22,
            "smile": 0.14,
            "gaze_x": 0.06,
            "gaze_y": 0.06,
            "brow": 0.10,
        },
        coarse={
            "mouth_wide": (1, 3, 5, 7),
            "smile": (1, 3, 5, 7),
            "light_x": (1, 4, 6),  # from the side only where it is strong
            "light_y": (2,),
        },
        skin_epsilon=2.0,
    ),
    Strength.STRICT: Plan(
        reach={
            "pitch": _WHOLE,
            "mouth_open": _WHOLE,
            "mouth_wide": _WHOLE,
            "smile": _WHOLE,
            "gaze_x": _WHOLE,
            "gaze_y": _WHOLE,
            "brow": _WHOLE,
        },
        settle_frames=30,
        coarse={
            "yaw": tuple(range(0, 32, 2)),
            "pitch": tuple(range(0, 16, 2)),
            "mouth_open": (0, 2, 4, 6),
            "mouth_wide": (3, 5),
            "smile": (3, 5),
            "eyelid_left": (0, 2),
            "eyelid_right": (0, 2),
            "gaze_x": (0, 2, 4, 6),
            "gaze_y": (0, 2, 4, 6),
            "brow": (1, 3),
            "light_x": (4,),
            "light_y": (2,),
        },
        skin_epsilon=0.0,
    ),
}


def plan_of(strength: Strength) -> Plan:
    """What a strength does; a blank picture has no code, so `BLANK` is as `STRICT`."""
    return _PLANS.get(strength, _PLANS[Strength.STRICT])


class _Chosen:
    """The strength of this process, set once before its encoder is made."""

    def __init__(self) -> None:
        self._lock, self._strength = Lock(), DEFAULT

    def get(self) -> Strength:
        with self._lock:
            return self._strength

    def set(self, strength: Strength) -> None:
        with self._lock:
            self._strength = strength


_CHOSEN = _Chosen()


def chosen() -> Strength:
    """The strength that new encoders of this process have, `balanced` where none was chosen."""
    return _CHOSEN.get()


def choose(name: str) -> Strength:
    """Set what `chosen` gives. Raises ValueError for a name that is no strength to run at.

    >>> choose("balanced") is Strength.BALANCED
    True
    """
    if name not in CHOICES:
        raise ValueError(f"strength {name!r}: wanted {', '.join(CHOICES)}")
    strength = Strength(name)
    _CHOSEN.set(strength)
    return strength
