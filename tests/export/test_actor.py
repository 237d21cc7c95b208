"""What goes into a bundle of `scene` mode beside the graphs."""

import numpy as np

from veilcam.camera.actor_code import POINTS, neutral_values
from veilcam.camera.body import facing_features
from veilcam.export.actor import fit_facing


def turned(yaw_deg: np.ndarray, seed: int) -> np.ndarray:
    """A standing body's points turned about its axis, patch units, noisy as a pose model's."""
    random = np.random.default_rng(seed)
    points = neutral_values()[POINTS].reshape(17, 2)
    depth = np.where(np.arange(17) < 5, -0.06, 0.0)  # the face is in front of the axis
    yaw = np.deg2rad(yaw_deg)[:, None]
    out = np.empty((len(yaw_deg), 17, 3), np.float32)
    out[..., 0] = 0.5 + (points[:, 0] - 0.5) * np.cos(yaw) - depth * np.sin(yaw)
    out[..., 1] = points[:, 1]
    out[..., :2] += 0.004 * random.standard_normal((len(yaw_deg), 17, 2))
    out[..., 2] = 0.8
    return out


def test_where_a_body_faces_is_learned_from_its_points() -> None:
    random = np.random.default_rng(0)
    yaw = random.uniform(-180, 180, 800).astype(np.float32)
    table = fit_facing(turned(yaw, 1), yaw)
    assert table.shape == (52, 2)
    unseen = random.uniform(-180, 180, 200)
    points = turned(unseen, 2).astype(np.float64) * (1, 2, 1)
    cosine, sine = (facing_features(points) @ table).T
    error = (np.rad2deg(np.arctan2(sine, cosine)) - unseen + 180) % 360 - 180
    assert np.median(np.abs(error)) < 15
