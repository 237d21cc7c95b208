"""What a person looks at while a run goes on: progress line, loss plot, sample sheet."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import jax
import matplotlib
import numpy as np
from flax import nnx

if TYPE_CHECKING:
    from veilcam.model.train import Trainer

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# columns of the control rows: field and the values it walks through
_WALKS = {
    "yaw": np.linspace(-40, 40, 8),
    "pitch": np.linspace(-22, 22, 8),
    "mouth_open": np.linspace(0.0, 0.36, 8),
    "smile": np.linspace(0.0, 0.15, 8),
    "eyelid_left": np.linspace(0.0, 0.16, 8),
    "gaze_x": np.linspace(-0.18, 0.18, 8),
}


class History:
    """Loss log as CSV, one progress line, and a plot."""

    def __init__(self, path: Path, *, keep: bool) -> None:
        self._path = path
        self._rows: list[dict[str, float]] = []
        if keep and path.is_file():
            with path.open(newline="") as stream:
                self._rows = [
                    {k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)
                ]

    def add(self, step: int, logs: dict[str, float]) -> None:
        """One row, and the progress line on stderr."""
        self._rows.append({"step": step, **logs})
        line = "  ".join(f"{name} {value:.3f}" for name, value in logs.items())
        sys.stderr.write(f"\r\033[Kstep {step}  {line}")
        sys.stderr.flush()
        names = sorted({name for row in self._rows for name in row})
        with self._path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(self._rows)

    def plot(self, path: Path) -> None:
        """Each loss over steps."""
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
        groups = (("pixels", "likeness"), ("game", "real_score", "fake_score"))
        for axis, names in zip(axes, groups, strict=True):
            for name in names:
                rows = [(row["step"], row[name]) for row in self._rows if name in row]
                if rows:
                    axis.plot(*zip(*rows, strict=True), label=name)
            axis.set_xlabel("step")
            if axis.has_data():
                axis.legend()
        figure.savefig(path, dpi=90)
        plt.close(figure)


def sample_sheet(trainer: "Trainer", path: Path) -> None:
    """Random draws (upper rows) and walks through single code fields (lower rows)."""
    from veilcam.camera.code import HEAD_FIELDS

    mean, chol = trainer.latent_distribution()
    random = np.random.default_rng(7)
    draws = mean + 0.8 * random.standard_normal((32, len(mean))).astype(np.float32) @ chol.T
    neutral = trainer.pack.basis["value_mean"].copy()
    neutral[:2] = 0, 0
    rows = random.choice(np.flatnonzero(trainer.pack.domain == 0), 32)
    values = trainer.pack.values[rows].copy()
    values[:, 0] = random.normal(0, 18, 32)
    latents = [draws]
    for number, (name, walk) in enumerate(_WALKS.items()):
        index = [field.name for field in HEAD_FIELDS].index(name)
        block = np.repeat(neutral[None], len(walk), 0)
        block[:, index] = walk
        if name == "eyelid_left":
            block[:, index + 1] = walk
        values = np.concatenate([values, block])
        latents.append(np.repeat(draws[number : number + 1], len(walk), 0))
    pictures = paint_batch(trainer.averaged_generator(), values, np.concatenate(latents))
    rows_of_16 = [np.hstack(list(pictures[i : i + 16])) for i in range(0, len(pictures), 16)]
    partial = path.with_name("partial_" + path.name)
    cv2.imwrite(str(partial), np.vstack(rows_of_16))
    partial.replace(path)


def paint_batch(generator: Any, values: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """BGR uint8 pictures over grey of a batch of codes."""
    out = np.asarray(_paint(generator, values.astype(np.float32), latents.astype(np.float32)))
    color = out[..., :3] * out[..., 3:] + 0.5 * (1 - out[..., 3:])
    return np.round(color * 255).clip(0, 255).astype(np.uint8)


@nnx.jit
def _paint(generator: Any, values: np.ndarray, latents: np.ndarray) -> jax.Array:
    return jax.vmap(generator.paint)(values, latents)
