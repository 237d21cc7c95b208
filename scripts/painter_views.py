"""How bundles of `frame` mode paint views that no training saw: figures, and a sheet to look at.

python scripts/painter_views.py BUNDLE... --pack packs/scenes.npz --models DIR [--sheet sheet.jpg]

For each bundle and strength, over the same views, codes, answers and latents (int8 graphs):
- psnr_db: of all pixels together;
- near: cosine similarity of a general feature net's vectors of painting and view (1: the same);
- own_first: share of paintings whose own view is the nearest of all, chance 1/n.
Where a sheet is asked for: views above, then each bundle at faithful, balanced, strict.
"""

import json
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from veilcam.camera.audit_recognizers import load_features, unit
from veilcam.camera.generator import Generator
from veilcam.camera.manifest import load_bundle
from veilcam.camera.painting import NOISE_SIZE
from veilcam.camera.strength import CHOICES
from veilcam.model.painter_data import ScenePack, encode, painted_size

SHOWN = 6


def painted(bundle: Path, codes: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Pictures (n, 216, 384, 3), BGR."""
    painter = Generator(load_bundle(bundle, mode="frame"), threads=1)
    return np.stack([painter.paint(c, z)[..., :3] for c, z in zip(codes, latents, strict=True)])


def figures(pictures: np.ndarray, views: np.ndarray, features: Any) -> dict[str, float]:
    """What is said above, of one bundle at one strength."""
    error = np.mean(np.square(pictures.astype(np.float32) - views.astype(np.float32)))
    shown, real = (unit(np.stack([features(x) for x in xs])) for xs in (pictures, views))
    nearest = (shown @ real.T).argmax(1)
    return {
        "psnr_db": round(float(20 * np.log10(255) - 10 * np.log10(error)), 2),
        "near": round(float((shown * real).sum(1).mean()), 4),
        "own_first": round(float((nearest == np.arange(len(views))).mean()), 3),
    }


def write_sheet(rows: list[np.ndarray], out: Path) -> None:
    """Rows of pictures as one JPEG."""
    sheet = np.vstack([np.hstack(list(row)) for row in rows])
    partial = out.with_name(f".{out.name}.part")
    partial.write_bytes(cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    partial.replace(out)


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--pack", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--models", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--sheet", type=click.Path(path_type=Path), help="JPEG of views and paintings.")
@click.option("--count", default=48, show_default=True, help="Views at most.")
@click.option("--seed", default=0, show_default=True, help="Of answers and latents.")
def main(
    bundles: tuple[Path, ...], pack: Path, models: Path, sheet: Path | None, count: int, seed: int
) -> None:
    """Compare BUNDLES on views that were kept out; JSON to stdout."""
    cv2.setNumThreads(1)
    features = load_features([models])
    if features is None:
        raise click.UsageError(f"{models}: no feature net; see its README")
    scenes = ScenePack.load(pack)
    rows = np.flatnonzero(scenes.is_held_out)
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    views = np.stack([painted_size(scenes.bgr[r]) for r in rows])
    random = np.random.default_rng(seed)
    latents = random.standard_normal((len(rows), NOISE_SIZE)).astype(np.float32)
    report: dict[str, Any] = {"views": len(views), "bundles": {str(b): {} for b in bundles}}
    chosen = np.linspace(0, len(views) - 1, SHOWN).round().astype(int)
    shown = [views[chosen]]
    for strength in CHOICES[::-1]:
        codes = np.stack([encode(view, strength, random=random) for view in views])
        for bundle in bundles:
            pictures = painted(bundle, codes, latents)
            report["bundles"][str(bundle)][strength.value] = figures(pictures, views, features)
            shown.append(pictures[chosen])
    click.echo(json.dumps(report, indent=1))
    if sheet is not None:
        write_sheet(shown, sheet)


if __name__ == "__main__":
    main()
