"""Public scenes for the painter: one pack, and random batches of codes with what they show.

python -m veilcam.model.painter_data SCENES -o scenes.npz
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.errors import InputError
from veilcam.camera.layout_code import PermanentResponse
from veilcam.camera.layout_plan import layout_plan, quantize_colours
from veilcam.camera.painting import NOISE_SIZE, PATCH_HW, colours_of, maps_of
from veilcam.camera.strength import CHOICES, Strength

HELD_OUT_PLACES = ("lobby", "park")  # whole panoramas: views of one place are alike
_EVERY = 10  # and every tenth block of street frames
_BLOCK = 20
_LARGE_HW = (228, 405)  # kept a little larger than what is painted, for shifts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScenePack:
    """Pictures and what they are.

    Attributes:
        bgr: (n, 228, 405, 3).
        is_held_out: Kept for the test.
    """

    bgr: UInt8[np.ndarray, "n h w 3"]
    is_held_out: np.ndarray
    manifest: dict[str, object]

    @classmethod
    def load(cls, path: Path) -> "ScenePack":
        """Decodes a pack written by `prepare`."""
        if not path.is_file():
            raise InputError(f"{path}: no training pack; make it: {__doc__.splitlines()[2]}")
        with np.load(path) as file:
            blob, ends = file["blob"], np.concatenate([[0], file["ends"]])
            pictures = [
                cv2.imdecode(blob[ends[i] : ends[i + 1]], cv2.IMREAD_COLOR)
                for i in range(len(ends) - 1)
            ]
            return cls(
                bgr=np.stack(pictures), is_held_out=file["is_held_out"],
                manifest=json.loads(str(file["manifest"])),
            )  # fmt: skip


def prepare(scenes: Path, out: Path) -> int:
    """Writes the pack of `views` and `carla` in a folder; the number of pictures comes back."""
    blobs, held, names = [], [], []
    for kind in ("views", "carla"):
        paths = sorted((scenes / kind).glob("*.jpg"))
        if not paths:
            raise InputError(f"{scenes / kind}: no pictures; wanted *.jpg")
        for number, path in enumerate(paths):
            bgr = cv2.imread(str(path))
            large = cv2.resize(bgr, _LARGE_HW[::-1], interpolation=cv2.INTER_AREA)
            blobs.append(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 93])[1].reshape(-1))
            is_test_street = kind == "carla" and number // _BLOCK % _EVERY == _EVERY - 1
            held.append(is_test_street or path.name.startswith(HELD_OUT_PLACES))
            names.append(f"{kind}/{path.name}")
    counts = {kind: sum(n.startswith(kind) for n in names) for kind in ("views", "carla")}
    manifest = {
        "pictures": counts,
        "names_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest(),
    }
    partial = out.with_suffix(".partial.npz")
    np.savez(
        partial, blob=np.concatenate(blobs), ends=np.cumsum([len(b) for b in blobs]),
        is_held_out=np.array(held), manifest=np.array(json.dumps(manifest)),
    )  # fmt: skip
    partial.replace(out)
    return len(blobs)


def encode(
    bgr: UInt8[np.ndarray, "216 384 3"], strength: Strength, *, random: np.random.Generator
) -> Float32[np.ndarray, " v"]:
    """The painter's vector as the camera makes it, with its noise; some cells covered at random.

    The seeded noise is for public pictures in training only.
    """
    plan = layout_plan(strength)
    small = cv2.resize(bgr, plan.grid_hw[::-1], interpolation=cv2.INTER_AREA)
    ycrcb = cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb).astype(np.float32)
    respond = PermanentResponse(plan.grid_hw, plan.epsilon, random_bytes=random.bytes)
    is_covered = np.zeros(plan.grid_hw, bool)
    rows, columns = plan.grid_hw
    for _ in range(int(random.choice([0, 0, 1, 2, 3]))):
        height = random.uniform(0.2, 1.0) * rows
        width = max(height * random.uniform(0.3, 0.6) * columns / rows * 9 / 16, 1)
        top, left = random.uniform(-0.1 * rows, rows), random.uniform(-0.5, columns)
        is_covered[max(int(top), 0) : int(top + height), max(int(left), 0) : int(left + width)] = 1
    answers = np.where(is_covered[..., None], np.uint8(0), respond(quantize_colours(ycrcb)))
    colours = colours_of(answers, is_covered, strength)
    return maps_of(colours, is_covered.astype(np.float32), strength)


def painted_size(bgr: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "216 384 3"]:
    """The picture as large as one that is painted."""
    return np.asarray(cv2.resize(bgr, PATCH_HW[::-1], interpolation=cv2.INTER_AREA), np.uint8)


class Sampler:
    """Random batches of a pack: shifted, mirrored, in other light, at each strength."""

    def __init__(self, pack: ScenePack, *, seed: int) -> None:
        self._rows = np.flatnonzero(~pack.is_held_out)
        self._pack, self._seed = pack, seed

    def __call__(self, count: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vectors (b, v), latents (b, z), and pictures (b, 216, 384, 3) uint8; same for a step."""
        random = np.random.default_rng([self._seed, step])
        values, wanted = [], []
        for row in random.choice(self._rows, count):
            bgr = _varied(self._pack.bgr[row], random)
            strength = CHOICES[int(random.choice(len(CHOICES), p=(0.2, 0.5, 0.3)))]
            values.append(encode(bgr, strength, random=random))
            wanted.append(bgr)
        latents = random.standard_normal((count, NOISE_SIZE)).astype(np.float32)
        return np.stack(values), latents, np.stack(wanted)


def _varied(
    large: UInt8[np.ndarray, "h w 3"], random: np.random.Generator
) -> UInt8[np.ndarray, "216 384 3"]:
    scale = random.uniform(0.65, 1.0)
    height, width = (int(side * scale) for side in large.shape[:2])
    top = int(random.integers(large.shape[0] - height + 1))
    left = int(random.integers(large.shape[1] - width + 1))
    part = large[top : top + height, left : left + width]
    bgr = painted_size(part)
    if random.random() < 0.5:
        bgr = bgr[:, ::-1]
    gain = random.uniform(0.6, 1.4) * random.uniform(0.92, 1.08, 3)
    return np.asarray(np.clip(bgr * gain + random.uniform(-15, 15), 0, 255), np.uint8)


@click.command()
@click.argument("scenes", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(scenes: Path, out: Path) -> None:
    """Write a training pack of the scenes in the folder SCENES (views/ and carla/)."""
    click.echo(f"{prepare(scenes, out)} pictures")


if __name__ == "__main__":
    main()
