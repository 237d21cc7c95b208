"""A trained painter becomes a bundle of `frame` mode."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from veilcam.camera.painting import NOISE_SIZE
from veilcam.camera.strength import CHOICES
from veilcam.export.bundle import export_generator
from veilcam.export.quantize import Feed, make_feeds


def export_painter(run_dir: Path, target: Path, *, name: str = "frame") -> dict[str, Any]:
    """Export a run of `model.painter_train` to the bundle `target` and return its manifest.

    Raises:
        GraphError: int8 and fp32 differ too much.
        InputError: The target exists and is no bundle, its name does not end in .veil, or the
            run's pack is not there.
    """
    from veilcam.model.checkpoint import load_average
    from veilcam.model.painter import Painter
    from veilcam.model.painter_data import ScenePack

    painter, meta, latents = load_average(run_dir, lambda _: Painter(rngs=nnx.Rngs(0)))
    pack = ScenePack.load(Path(meta["config"]["pack"]))
    feeds = [draw_feeds(pack, count, seed=seed) for seed, count in enumerate((64, 48))]
    return export_generator(
        painter.paint, meta, latents, target, name=name, mode="frame", feeds=feeds, arrays={}
    )


def draw_feeds(pack: Any, count: int, *, seed: int) -> list[Feed]:
    """Codes of public scenes at all strengths, with noise as the loop has it."""
    from veilcam.model.painter_data import encode, painted_size

    random = np.random.default_rng(seed)
    rows = random.choice(len(pack.bgr), count)
    values = [
        encode(painted_size(pack.bgr[row]), CHOICES[number % len(CHOICES)], random=random)
        for number, row in enumerate(rows)
    ]
    return make_feeds(
        np.stack(values), random.standard_normal((count, NOISE_SIZE)).astype(np.float32)
    )
