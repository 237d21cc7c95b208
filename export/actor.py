"""A trained actor generator becomes a bundle of `scene` mode."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from veilcam.camera.actor_code import COLOURS, FACING, GARMENT, NUM_VALUES, POINTS, SEEN
from veilcam.camera.body import facing_features
from veilcam.export.bundle import export_generator
from veilcam.export.quantize import Feed, make_feeds

_RIDGE = 3.0
_LATENT_NOISE = 0.15


def export_actor(run_dir: Path, target: Path, *, name: str = "scene") -> dict[str, Any]:
    """Export a run of `model.actor_train` to the bundle `target` and return its manifest.

    Raises:
        GraphError: int8 and fp32 differ too much.
        InputError: The target exists and is no bundle, its name does not end in .veil, or the
            run's pack is not there.
    """
    from veilcam.model.actor import ActorGenerator
    from veilcam.model.actor_data import ActorPack
    from veilcam.model.checkpoint import load_average, load_table

    generator, meta, latents = load_average(
        run_dir, lambda basis: ActorGenerator(basis["light"], rngs=nnx.Rngs(0))
    )
    pack = ActorPack.load(Path(meta["config"]["pack"]))
    table = load_table(run_dir, "latents")
    arrays = {
        "cast": table.astype(np.float32),
        "statics": pack.statics,
        "facing": fit_facing(pack.found, pack.yaw),
    }
    feeds = [draw_feeds(pack, table, count, seed=seed) for seed, count in enumerate((64, 48))]
    return export_generator(
        generator.paint, meta, latents, target, name=name, mode="scene", feeds=feeds, arrays=arrays
    )


def fit_facing(found: np.ndarray, yaw_deg: np.ndarray) -> np.ndarray:
    """Table (52, 2) from `body.facing_features` to cosine and sine, by ridge regression.

    Args:
        found: Key points as the camera's pose model finds them, patch units, (n, 17, 3).
        yaw_deg: Where each body faces.
    """
    points = found.astype(np.float64) * (1, 2, 1)  # a patch is twice as high as wide
    inputs = facing_features(points)
    angle = np.deg2rad(yaw_deg)
    wanted = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    gram = inputs.T @ inputs + _RIDGE * np.eye(inputs.shape[1])
    return np.linalg.solve(gram, inputs.T @ wanted).astype(np.float32)


def draw_feeds(pack: Any, table: np.ndarray, count: int, *, seed: int) -> list[Feed]:
    """Codes as the loop sends them: poses of the pack, another's looks, clothes of any colour."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(pack.yaw), count)
    who = random.choice(len(table), count)
    yaw = np.deg2rad(np.round(pack.yaw[rows] / 45) * 45)
    values = np.empty((count, NUM_VALUES), np.float32)
    values[:, POINTS] = np.round(pack.found[rows, :, :2].reshape(count, -1) * 32) / 32
    values[:, SEEN] = pack.found[rows, :, 2] > 0.3
    values[:, FACING] = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    values[:, COLOURS.start :] = pack.statics[who]
    clothes = slice(COLOURS.start, COLOURS.start + 6)
    values[:, clothes] = random.uniform(0.05, 0.85, (count, 6))
    latents = table[who] + _LATENT_NOISE * random.standard_normal((count, table.shape[1]))
    assert values[:, GARMENT].sum(1).min() == 1
    return make_feeds(values, latents.astype(np.float32))
