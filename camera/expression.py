"""Measured expression -> expression of an average head: what is a person's own stays behind.

A wide mouth or low brows tell who somebody is; only their change tells what the face does. Each
track's slow mean is taken off and the average head's value put in its place.
"""

from veilcam.camera.head_model import EXPRESSION_FIELDS

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
_PRIOR_FRAMES = 12.0  # the average head counts as this many frames of a new track
_MAX_FRAMES = 300.0
_SHUT, _OPEN = 0.70, 0.92  # lid distance over the track's own where an eye is shut, and open


class ExpressionScale:
    """Running rest values of one track."""

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
            if name.startswith("eyelid"):
                opened = (value / max(rest, 1e-3) - _SHUT) / (_OPEN - _SHUT)
                out[name] = REST[name] * min(max(opened, 0.0), 1.15)
            else:
                out[name] = REST[name] + value - rest
        return out
