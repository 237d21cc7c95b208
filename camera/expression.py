"""Measured expression -> expression of an average head: what is a person's own stays behind.

A wide mouth or low brows tell who somebody is; only their change tells what the face does. Each
track's own rest is taken off and the average head's value put in its place.
"""

from typing import Protocol, runtime_checkable

from veilcam.camera.head_model import EXPRESSION_FIELDS
from veilcam.camera.strength import Plan, Strength, plan_of

# Values of the average portrait at rest, in the units of `head_model.measure_expression`.
REST = {
    "mouth_open": 0.03,
    "mouth_wide": 0.85,
    "smile": 0.05,
    "eyelid_left": 0.13,
    "eyelid_right": 0.13,
    "gaze_x": 0.0,
    "gaze_y": 0.06,
    "brow": 0.38,
}
MIDDLE = REST | {"pitch": 0.0}  # where a track's own rest is moved to
_PRIOR_FRAMES = 12.0  # the average head counts as this many frames of a new track
_MAX_FRAMES = 300.0
_SHUT, _OPEN = 0.70, 0.92  # lid distance over the track's own where an eye is shut, and open
_LIDS_OWN = (0.07, 0.20)  # an eye that opens less was never seen open, one that opens more is wide
_LIDS_RISE = 0.3  # an eye that opens further than ever was not open before


@runtime_checkable
class Scale(Protocol):
    """Measured values of one track -> values of the average head, frame by frame."""

    def __call__(self, measured: dict[str, float]) -> dict[str, float]:
        """Expression of the average head that changes as the measured one does."""


class ExpressionScale:
    """Running rest values of one track: a person's own goes slowly, over some seconds.

    The first frame keeps 12/13 of it; for one that keeps none see `OwnRest`.
    """

    def __init__(self) -> None:
        self._frames = _PRIOR_FRAMES
        self._rest = dict(REST)

    def __call__(self, measured: dict[str, float]) -> dict[str, float]:
        """Expression of the average head that changes as the measured one does."""
        self._frames = min(self._frames + 1, _MAX_FRAMES)
        out = dict(measured)
        for name in EXPRESSION_FIELDS:
            value = measured.get(name, REST[name])
            if name == "mouth_open":
                continue  # a closed mouth is 0 in everybody
            rest = self._rest[name] + (value - self._rest[name]) / self._frames
            self._rest[name] = rest
            out[name] = lid_of(name, value, rest) if _is_lid(name) else REST[name] + value - rest
        return out


class OwnRest:
    """A track's rest, taken off from its first frame on.

    The first frame is the first guess of the rest, so what is sent starts at the average head and
    moves by as much as the measured value does. A rest further from the average than the plan's
    `reach` counts only as far as that: a broad smile or a bowed head shows at once, and stays.

    Guarantees:
        A value that stays as it is gives the same output in every frame.
        Tracks whose values differ by a constant give the same output to within rounding, while
        their running means are within reach. (For eyelids: by a constant factor.)

    Args:
        plan: Reach of each field, and frames in which nothing moves.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rest: dict[str, float] = {}
        self._frames: dict[str, int] = {}

    def __call__(self, measured: dict[str, float]) -> dict[str, float]:
        """Values of the average head that change as the measured ones do."""
        out = dict(measured)
        for name, middle in MIDDLE.items():
            if name not in measured:  # not seen in this frame
                out[name] = middle
            elif _is_lid(name):
                out[name] = self._lid(name, measured[name])
            elif name in self._plan.reach:
                out[name] = self._shifted(name, measured[name], middle)
            if name in measured and self._frames.get(name, 1) <= self._plan.settle_frames:
                out[name] = middle
        return out

    def _shifted(self, name: str, value: float, middle: float) -> float:
        frames = self._count(name)
        mean = self._rest.get(name, value)
        mean += (value - mean) / frames
        self._rest[name] = mean
        reach = self._plan.reach[name]
        return middle + value - min(max(mean, middle - reach), middle + reach)

    def _lid(self, name: str, value: float) -> float:
        frames = self._count(name)
        mean = self._rest.get(name, value)
        mean += (value - mean) * (_LIDS_RISE if value > mean else 1 / frames)
        self._rest[name] = mean
        return lid_of(name, value, min(max(mean, _LIDS_OWN[0]), _LIDS_OWN[1]))

    def _count(self, name: str) -> int:
        self._frames[name] = self._frames.get(name, 0) + 1
        return min(self._frames[name], int(_MAX_FRAMES))


def scale_for(strength: Strength) -> Scale:
    """A fresh track's scale at a strength."""
    plan = plan_of(strength)
    return OwnRest(plan) if plan.has_own_rest else ExpressionScale()


def lid_of(name: str, value: float, rest: float) -> float:
    """Lid distance of the average eye that is as far open as this one is, rest being open."""
    opened = (value / max(rest, 1e-3) - _SHUT) / (_OPEN - _SHUT)
    return REST[name] * min(max(opened, 0.0), 1.15)


def _is_lid(name: str) -> bool:
    return name.startswith("eyelid")
