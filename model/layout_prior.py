"""How levels of neighbouring cells go together in public scenes: camera/assets/layout_prior.npz.

python -m veilcam.model.layout_prior packs/scenes.npz
"""

from pathlib import Path

import click
import cv2
import numpy as np
from jaxtyping import UInt32

from veilcam.camera.layout_denoise import ASSET
from veilcam.camera.layout_plan import CHANNELS, NUM_LEVELS, layout_plan, quantize_colours
from veilcam.camera.strength import CHOICES, Strength
from veilcam.model.painter_data import ScenePack, painted_size


def count_pairs(pack: ScenePack, strength: Strength) -> UInt32[np.ndarray, "2 3 k k"]:
    """How often levels stand side by side (either way) and above each other, without held-out."""
    most = max(NUM_LEVELS)
    counts = np.zeros((2, len(CHANNELS), most, most), np.uint32)
    grid_hw = layout_plan(strength).grid_hw
    for row in np.flatnonzero(~pack.is_held_out):
        small = cv2.resize(painted_size(pack.bgr[row]), grid_hw[::-1], interpolation=cv2.INTER_AREA)
        levels = quantize_colours(cv2.cvtColor(small, cv2.COLOR_BGR2YCrCb).astype(np.float32))
        for c in range(len(CHANNELS)):
            x = levels[..., c]
            np.add.at(counts[0, c], (x[:, :-1], x[:, 1:]), 1)
            np.add.at(counts[0, c], (x[:, 1:], x[:, :-1]), 1)
            np.add.at(counts[1, c], (x[:-1], x[1:]), 1)
    return counts


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path),
              default=Path("camera/assets") / ASSET, show_default=True)  # fmt: skip
def main(pack: Path, out: Path) -> None:
    """Count neighbours' levels in a pack of public scenes."""
    scenes = ScenePack.load(pack)
    partial = out.with_suffix(".partial.npz")
    np.savez_compressed(
        partial, pack_manifest=np.array(str(scenes.manifest)),
        **{strength.value: count_pairs(scenes, strength) for strength in CHOICES},
    )  # fmt: skip
    partial.replace(out)


if __name__ == "__main__":
    main()
