"""How like held-out private people the heads of runs are: KID, and its fall against the first run.

Usage: python scripts/likeness.py RUN RUN2 ... --private FOLDER --pack PACK --features FEATURES
The first run is the public-only twin. Held-out people were never seen by `model.private_latents`.
`--encoder FILE` adds the twin without noise: the plain moments of the people who are not held out.
That row is for comparison and must never be shipped.

Intervals: 95 %, bootstrap over held-out people and over painted heads. All runs paint the same
codes from the same noise, so that differences are paired.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import jax
import numpy as np
import onnxruntime as ort

from veilcam.model import checkpoint
from veilcam.model import private_latents as pl
from veilcam.model.data import SIMULATED, Pack
from veilcam.model.feature_net import load_features
from veilcam.model.generator import HeadGenerator
from veilcam.model.head_basis import POINTS
from veilcam.model.statistics import Moments

_log = logging.getLogger(__name__)
_TRUNCATION = 0.75
_GREY = 127.0
_REPEATS = 1000
Features = Callable[[np.ndarray], np.ndarray]


def paint(
    generator: HeadGenerator, mean: np.ndarray, chol: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Heads over grey, uint8 BGR, for these codes; the same noise for every run."""
    noise = np.random.default_rng(7).standard_normal((len(values), len(mean)))
    latents = (mean + _TRUNCATION * noise @ chol.T).astype(np.float32)
    painter = jax.jit(jax.vmap(generator.paint))
    out = []
    for start in range(0, len(values), 50):
        patch = np.asarray(painter(values[start : start + 50], latents[start : start + 50]))
        alpha = patch[..., 3:]
        out.append((255 * patch[..., :3] * alpha + _GREY * (1 - alpha)).astype(np.uint8))
    return np.concatenate(out)


def recognizer(path: Path, pack: Pack) -> Features:
    """Embedding of a crop in which the pack's mean eyes lie where the recognizer wants them."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    box = _eye_crop(pack)

    def run(bgr: np.ndarray) -> np.ndarray:
        crops = [cv2.warpAffine(b, box, (112, 112), borderMode=cv2.BORDER_REPLICATE) for b in bgr]
        rows = np.stack(crops)[..., ::-1].astype(np.float32)
        parts = [rows[i : i + 32] for i in range(0, len(rows), 32)]
        return np.concatenate([session.run(None, {"data:0": part})[0] for part in parts])

    return run


def general(path: Path) -> Features:
    """Embedding of the whole patch by an ImageNet net."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(bgr: np.ndarray) -> np.ndarray:
        rows = [
            cv2.resize(b, (224, 224), interpolation=cv2.INTER_CUBIC)[None, ..., ::-1] for b in bgr
        ]
        parts = [session.run(None, {"input": row})[0].reshape(-1) for row in rows]
        return np.stack(parts).astype(np.float32)  # 8-bit, zero point 0

    return run


def _eye_crop(pack: Pack) -> np.ndarray:
    """Similarity from the patch to the recognizer's 112 pixels, one for all pictures."""
    points = pack.points_xy[pack.domain != SIMULATED].mean(0)
    at = {point: index for index, point in enumerate(np.asarray(POINTS).tolist())}
    left = points[[at[33], at[133]]].mean(0)
    right = points[[at[362], at[263]]].mean(0)
    scale = (73.53 - 38.29) / float(np.linalg.norm(right - left))
    middle = (left + right) / 2
    return np.array(
        [[scale, 0, 55.9 - scale * middle[0]], [0, scale, 51.6 - scale * middle[1]]], np.float32
    )


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The polynomial kernel of KID."""
    return np.asarray((a.astype(np.float64) @ b.T / a.shape[1] + 1) ** 3)


def weighted_mean(k: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean over pairs of different items, with weights (repeats, n): a bootstrap's counts."""
    pairs = np.einsum("ri,ri->r", w @ k, w) - np.square(w) @ np.diag(k)
    return np.asarray(pairs / (w.sum(1) ** 2 - np.square(w).sum(1)))


class Kid:
    """KID of runs to the held-out people with paired bootstrap draws; row 0 is unweighted."""

    def __init__(self, real: np.ndarray, num_fakes: int) -> None:
        random = np.random.default_rng(0)
        self._scale = np.sqrt(np.square(real).mean())  # one kernel width for every feature net
        self._real = real / self._scale
        self._people = self._counts(len(real), random)
        self._fakes = self._counts(num_fakes, random)
        self._among_real = weighted_mean(kernel(self._real, self._real), self._people)

    @staticmethod
    def _counts(size: int, random: np.random.Generator) -> np.ndarray:
        drawn = random.multinomial(size, np.full(size, 1 / size), _REPEATS)
        return np.concatenate([np.ones((1, size)), drawn]).astype(np.float64)

    def __call__(self, fake: np.ndarray) -> np.ndarray:
        """KID of these features, then its bootstrap draws."""
        fake = fake / self._scale
        cross = self._people @ kernel(self._real, fake)
        cross = np.einsum("rj,rj->r", cross, self._fakes)
        cross /= self._people.sum(1) * self._fakes.sum(1)
        among_fakes = weighted_mean(kernel(fake, fake), self._fakes)
        return np.asarray(self._among_real + among_fakes - 2 * cross)


def told(draws: np.ndarray) -> str:
    """Value and 95 % interval."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return f"{draws[0]:.4f} [{low:.4f}, {high:.4f}]"


def plain_moments(
    private: Path, encoder: pl.Encoder, describe: pl.Describe, cut: Callable, *, with_grey: bool
) -> tuple[Moments, int]:
    """What the mechanism would release without noise: for comparison only."""
    rows = pl.chosen_rows(private, held_out=False, with_grey=with_grey)
    encode = pl.encoder_of(encoder, describe, cut)
    latent = encode({"bgr": np.stack([cv2.imread(row["file"]) for row in rows])})["latent"]
    names = [row["person"] for row in rows]
    people = [latent[[n == name for n in names]].mean(0) for name in dict.fromkeys(names)]
    offset = np.stack(people) - encoder.mean
    norm = np.linalg.norm(offset, axis=1, keepdims=True)
    _log.info("%d people; %.0f %% clipped", len(people), 100 * (norm > encoder.radius).mean())
    offset = offset / np.maximum(norm / encoder.radius, 1)
    moments = Moments(
        mean=offset.mean(0) + encoder.mean,
        covariance=np.cov(offset.T),
        mean_stddev=0.0,
        covariance_stddev=0.0,
    )
    return moments, len(people)


def held_out_heads(private: Path, cut: Callable, *, with_grey: bool) -> np.ndarray:
    """The first picture of each held-out person, aligned, over grey."""
    rows = pl.chosen_rows(private, held_out=True, with_grey=with_grey)
    first = {row["person"]: row["file"] for row in reversed(rows)}
    cuts = [cut(cv2.imread(file)) for file in first.values()]
    _log.info("%d held-out people, %d without a face", len(cuts), sum(c is None for c in cuts))
    return np.stack([c for c in cuts if c is not None])


_FILE = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("runs", type=_FILE, nargs=-1, required=True)
@click.option("--private", type=_FILE, required=True)
@click.option("--pack", "pack_path", type=_FILE, required=True)
@click.option("--features", "features_path", type=_FILE, required=True)
@click.option("--models", type=_FILE, default=Path("../shared/data/models"), show_default=True)
@click.option("--encoder", "encoder_path", type=_FILE, help="Adds the twin without noise.")
@click.option("--with-grey/--no-with-grey", default=False)
@click.option("--draws", default=1000, show_default=True)
@click.option("--sheet", type=click.Path(path_type=Path), help="Picture of the first heads.")
def main(
    runs: tuple[Path, ...],
    private: Path,
    pack_path: Path,
    features_path: Path,
    models: Path,
    encoder_path: Path | None,
    with_grey: bool,
    draws: int,
    sheet: Path | None,
) -> None:
    """Print KID of each of RUNS to held-out private people, and the fall against the first."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pack, cut = Pack.load(pack_path), pl.cutter(models)
    portraits = np.flatnonzero(pack.domain != SIMULATED)
    values = pack.values[np.random.default_rng(3).choice(portraits, draws, replace=False)]
    heads: dict[str, np.ndarray] = {}
    for run in runs:
        generator, meta, latents = checkpoint.load_generator(run)
        spent = meta.get("training", {}).get("epsilon", 0.0)
        name = f"{run.name}, epsilon {spent:.4g}"
        heads[name] = paint(generator, latents["mean"], latents["chol"], values)
    if encoder_path:
        encoder = pl.Encoder.load(encoder_path)
        describe = pl.describer(load_features(features_path))
        moments, _ = plain_moments(private, encoder, describe, cut, with_grey=with_grey)
        generator, _, latents = checkpoint.load_generator(runs[0])
        mean, chol = pl.moved(latents["mean"], latents["chol"], encoder, moments)
        heads["no noise (epsilon infinite)"] = paint(generator, mean, chol, values)
    real = held_out_heads(private, cut, with_grey=with_grey)
    if sheet:
        rows = [real[:12], *(h[:12] for h in heads.values())]
        cv2.imwrite(str(sheet), np.concatenate([np.concatenate(list(r), axis=1) for r in rows]))
    nets = {
        "mobileface": recognizer(models / "mobileface.onnx", pack),
        "mobilenet": general(models / "mobilenet_v1_1.0_224_int8_embed1024.onnx"),
    }
    click.echo("| net | run | KID | fall against the first run | of it |\n|---|---|---|---|---|")
    for net, embed in nets.items():
        kid = Kid(embed(real), draws)
        first: np.ndarray | None = None
        for name, pictures in heads.items():
            value = kid(embed(pictures))
            first = value if first is None else first
            fall = first - value
            share = f"{100 * fall[0] / first[0]:.1f} %"
            click.echo(f"| {net} | {name} | {told(value)} | {told(fall)} | {share} |")


if __name__ == "__main__":
    main()
