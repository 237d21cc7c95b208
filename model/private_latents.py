"""The first private stage: moves the latents' distribution toward private people, in one release.

A public encoder (ridge regression from frozen features) turns a picture into the latent that the
generator would have given it. Mean and covariance of the private people's latents are released once
through the mechanism and replace what is told apart from the noise in the run's distribution; what
the encoder cannot see of a latent keeps its public spread.

Command: python -m veilcam.model.private_latents RUN --private FOLDER --pack PACK
         --features FEATURES --epsilon 2 -o RUN2
"""

import csv
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.errors import InputError
from veilcam.model.checkpoint import META, STATE
from veilcam.model.data import SIMULATED, Pack
from veilcam.model.feature_net import Weights, features, load_features
from veilcam.model.ledger import NAME, Ledger
from veilcam.model.plan import Plan
from veilcam.model.prepare import Aligner, Picture, _Matte, align, over_grey
from veilcam.model.privacy import Mechanism
from veilcam.model.private_data import PrivateSet, load_private
from veilcam.model.statistics import Moments, blend_covariance, nearest_psd, noisy_moments

_log = logging.getLogger(__name__)
STAGE = "latents"
_CROP_PX = 128  # of the private pictures
_CHUNK = 32
_GRIDS = (4, 4, 2, 2)  # cells along a side that each feature map is pooled to
_SMALL_PX = 8  # side of the small picture that goes beside the features
_RIDGES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # times the mean square of a feature
_PUBLIC_HELD_OUT, _PRIVATE_HELD_OUT = 0.2, 0.25
_MEAN_SHARE = 0.8  # for some thousand people the covariance is mostly below its noise
_ROOM = 1.5  # clipping radius / median norm of public latents as encoded
_FLOOR = 1e-3  # least variance that stays, in public variances
# Weight of "no shift" against what the encoder saw of it. On public pictures 0.1 undoes as much of
# the shrinkage as groups that are apart in looks bear, and more for groups apart in latents.
_SHRINKAGE_RIDGE = 0.1
Describe = Callable[[UInt8[np.ndarray, "n 128 128 3"]], np.ndarray]
Matte = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder:
    """Features of a picture -> its latent in public, whitened coordinates; all of it is public.

    Attributes:
        feature_mean, feature_scale: Of the public pictures it was fitted to.
        weight: Ridge regression of whitened latents.
        mean, covariance: Of public latents *as encoded*, over pictures it was not fitted to.
        gain: Shift of encoded latents -> shift of latents: what the regression shrank, undone.
        radius: Bound of an encoded latent's distance from `mean`.
        r2: Share of the latents' variance it explains, over pictures it was not fitted to.
        r2_grey: The same, for those pictures without their colour.
        ridge: The chosen one.
    """

    feature_mean: np.ndarray
    feature_scale: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    gain: np.ndarray
    radius: float
    r2: float
    r2_grey: float
    ridge: float

    def __call__(self, described: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n z"]:
        """Whitened latents of described pictures."""
        normal = (described - self.feature_mean) / self.feature_scale
        return np.asarray(normal @ self.weight, np.float32)

    def save(self, path: Path) -> None:
        """Writes it, to be used again."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **asdict(self))
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Encoder":
        """Reads what `save` wrote."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        fields: dict[str, Any] = {k: v if v.ndim else float(v) for k, v in arrays.items()}
        return cls(**fields)


def is_held_out(name: str, share: float = _PRIVATE_HELD_OUT) -> bool:
    """Whether a person is kept for evaluation: by the name alone, so the same in every command."""
    return hashlib.sha256(f"held out/{name}".encode()).digest()[0] < 256 * share


def described(weights: Weights, rgb: Float[jax.Array, "n h w 3"]) -> Float[jax.Array, "n d"]:
    """Pictures in [-1, 1], and their feature maps, each pooled to a few cells."""
    parts = [jax.image.resize(rgb, (len(rgb), _SMALL_PX, _SMALL_PX, 3), "linear")]
    for tap, grid in zip(features(weights, rgb), _GRIDS, strict=True):
        n, h, w, c = tap.shape
        parts.append(tap.reshape(n, grid, h // grid, grid, w // grid, c).mean((2, 4)))
    return jnp.concatenate([part.reshape(len(rgb), -1) for part in parts], axis=1)


def describer(weights: Weights) -> Describe:
    """`described` for pictures that are uint8 BGR over grey, in chunks."""
    pooled = jax.jit(lambda rgb: described(weights, rgb))

    def describe(bgr: np.ndarray) -> np.ndarray:
        out = []
        for start in range(0, len(bgr), _CHUNK):
            rgb = bgr[start : start + _CHUNK, ..., ::-1].astype(np.float32) / 127.5 - 1
            full = np.zeros((_CHUNK, *rgb.shape[1:]), np.float32)  # one size, compiled once
            full[: len(rgb)] = rgb
            out.append(np.asarray(pooled(full))[: len(rgb)])
        return np.concatenate(out)

    return describe


def fit_encoder(run_dir: Path, pack: Pack, describe: Describe) -> Encoder:
    """The encoder of a run, from its public portraits and their latents alone."""
    rows = np.flatnonzero(pack.domain != SIMULATED)
    bgr = np.stack([over_grey(bgra) for bgra in pack.bgra[rows]])
    with np.load(run_dir / STATE) as file:
        if not np.allclose(pack.basis["shape"], file["basis/shape"], atol=1e-2):
            raise InputError(f"{run_dir}: trained with another head model than the pack's; use its")
        table = {name: row for row, name in enumerate(file["people"].tolist())}
        names = [pack.people[person] for person in pack.person[rows]]
        if missing := sum(name not in table for name in names):
            raise InputError(f"{run_dir}: {missing} portraits of the pack have no latent there")
        latents = file["['latents']"].astype(np.float32)[[table[name] for name in names]]
        mean, chol = file["latent_mean"], file["latent_chol"]
    joint = np.concatenate([latents, pack.shape[rows]], axis=1)
    white = np.linalg.solve(chol.astype(np.float64), (joint - mean).T).T
    held = np.array([is_held_out(name, _PUBLIC_HELD_OUT) for name in names])
    grey = np.stack([cv2.cvtColor(b, cv2.COLOR_BGR2GRAY) for b in bgr[held]])
    return fit(describe(bgr), white, held, describe(np.repeat(grey[..., None], 3, axis=3)))


def fit(x: np.ndarray, white: np.ndarray, held: np.ndarray, grey: np.ndarray) -> Encoder:
    """Ridge regression of whitened latents on descriptions; the ridge by the held-out pictures."""
    center, scale = x[~held].mean(0), x[~held].std(0) + 1e-3
    normal = (x - center) / scale
    gram = normal[~held].T @ normal[~held]
    right = normal[~held].T @ white[~held]

    def r2(encoded: np.ndarray) -> float:
        error = np.square(encoded - white[held]).sum()
        return float(1 - error / np.square(white[held] - white[~held].mean(0)).sum())

    best: tuple[float, float, np.ndarray] | None = None
    for ridge in _RIDGES:
        matrix = gram + ridge * len(white) * np.eye(len(gram), dtype=gram.dtype)
        weight = np.linalg.solve(matrix, right).astype(np.float32)
        score = r2(normal[held] @ weight)
        _log.info("ridge %g: R^2 %.3f over held-out public pictures", ridge, score)
        if best is None or score > best[0]:
            best = (score, ridge, weight)
    assert best is not None
    encoded = normal[held] @ best[2]
    norm = np.linalg.norm(encoded - encoded.mean(0), axis=1)
    return Encoder(
        feature_mean=center,
        feature_scale=scale,
        weight=best[2],
        mean=encoded.mean(0),
        covariance=np.cov(encoded.T),
        gain=_gain(encoded, white[held]),
        radius=_ROOM * float(np.median(norm)),
        r2=best[0],
        r2_grey=r2((grey - center) / scale @ best[2]),
        ridge=best[1],
    )


def _gain(encoded: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Least squares for the shift behind a shift of encoded latents, with a ridge."""
    size = encoded.shape[1]
    joint = np.cov(encoded.T, white.T)
    shrinks = joint[:size, size:] @ np.linalg.inv(joint[size:, size:] + 1e-2 * np.eye(size))
    gram = shrinks @ shrinks.T + _SHRINKAGE_RIDGE * np.eye(size)
    return np.asarray(shrinks.T @ np.linalg.inv(gram), np.float64)


def aligned(
    bgr: UInt8[np.ndarray, "h w 3"], aligner: Aligner, matte: Matte
) -> tuple[UInt8[np.ndarray, "128 128 3"], Float[np.ndarray, " f"]] | None:
    """The head in the generator's framing over grey, as the public ones, and its code values.

    None without a face.
    """
    picture = Picture(name="", domain=1, person="", bgra=np.dstack([bgr, matte(bgr)]))
    mesh = aligner.mesh(picture)
    made = None if mesh is None else align(picture, mesh)
    if made is None:
        return None
    values = np.array([made[2][field.name] for field in HEAD_FIELDS], np.float32)
    return over_grey(made[0]), values


def chosen_rows(folder: Path, *, held_out: bool, with_grey: bool) -> list[dict[str, str]]:
    """Rows of the manifest of those who are held out for evaluation, or of all others."""
    try:
        with (folder / "manifest.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise InputError(f"{folder / 'manifest.csv'}: {error.strerror}") from error
    return [
        {"file": str((folder / row["file"]).resolve()), "person": row["person"]}
        for row in rows
        if is_held_out(row["person"]) == held_out and (with_grey or row.get("colour") != "0")
    ]


def load_people(folder: Path, *, with_grey: bool = False) -> PrivateSet:
    """The private people who are not held out, sealed."""
    rows = chosen_rows(folder, held_out=False, with_grey=with_grey)
    with tempfile.TemporaryDirectory() as temporary:
        with (Path(temporary) / "manifest.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["file", "person"])
            writer.writeheader()
            writer.writerows(rows)
        return load_private(Path(temporary), size_px=_CROP_PX)


def encoder_of(
    encoder: Encoder, describe: Describe, cut: Callable[[np.ndarray], np.ndarray | None]
) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """For `PrivateSet.map_pictures`: whitened latents; without a face, the public mean."""

    def encode(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        cuts = [cut(bgr) for bgr in rows["bgr"]]
        blank = np.zeros((_CROP_PX, _CROP_PX, 3), np.uint8)
        latent = encoder(describe(np.stack([blank if c is None else c for c in cuts])))
        latent[[c is None for c in cuts]] = encoder.mean
        return {"latent": latent}

    return encode


def release(people: PrivateSet, plan: Plan, ledger: Ledger, encoder: Encoder) -> Moments:
    """Noisy mean and covariance of the people's whitened latents; spends the plan's one stage."""
    stage = plan.stage(STAGE)
    return noisy_moments(
        stage,
        people,
        ledger.spend(stage),
        lambda picture: picture["latent"],
        radius=encoder.radius,
        center=encoder.mean,
        mean_share=_MEAN_SHARE,
    )


def make_plan(people: PrivateSet, *, epsilon: float, delta: float) -> Plan:
    """One release over everybody."""
    stage = Mechanism(
        stage=STAGE,
        num_persons=people.num_persons,
        l2_clip_norm=1.0,
        noise_multiplier=1.0,
        pictures_per_person=2,
    )
    return Plan.calibrated([stage], epsilon=epsilon, delta=delta)


def moved(
    mean: np.ndarray, chol: np.ndarray, encoder: Encoder, moments: Moments
) -> tuple[np.ndarray, np.ndarray]:
    """The run's distribution after the people's: differences of encoded moments are added.

    The encoder shrinks. Public moments are shrunk alike, so only what differs moves; of the mean's
    shift the shrinkage is undone by public knowledge. The covariance's is left as encoded.
    """
    change = blend_covariance(moments, encoder.covariance) - encoder.covariance
    values, vectors = np.linalg.eigh(nearest_psd(np.eye(len(mean)) + change))
    white = (vectors * np.maximum(values, _FLOOR)) @ vectors.T
    new_mean = mean + chol @ (encoder.gain @ (moments.mean - encoder.mean))
    new_chol = chol.astype(np.float64) @ np.linalg.cholesky(white)
    return new_mean.astype(np.float32), new_chol.astype(np.float32)


def write_run(run_dir: Path, out: Path, encoder: Encoder, moments: Moments, more: Any) -> None:
    """A copy of the run with the moved distribution and `more` facts."""
    out.mkdir(parents=True, exist_ok=True)
    with np.load(run_dir / STATE) as file:
        arrays = {name: file[name] for name in file.files}
    mean, chol = moved(arrays["latent_mean"], arrays["latent_chol"], encoder, moments)
    meta = json.loads(str(arrays["meta"])) | more
    arrays |= {"latent_mean": mean, "latent_chol": chol, "meta": np.array(json.dumps(meta))}
    partial = out / (STATE + ".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(out / STATE)
    partial = out / (META + ".partial")
    partial.write_text(json.dumps(meta, indent=1) + "\n")
    partial.replace(out / META)


def move_run(
    run_dir: Path, out: Path, people: PrivateSet, encoder: Encoder, *, epsilon: float, delta: float
) -> dict[str, Any]:
    """Spends, releases and writes the moved run to `out` with its ledger; returns the promise.

    Args:
        run_dir: A run; its ledger, if it has one, goes on in `out`.
        out: Folder of the new run.
        people: Pictures as the array `latent`: see `encoder_of`.
        encoder: From `fit_encoder`.
        epsilon: Budget, together with all that the ledger holds.
        delta: Its delta.

    Raises:
        BudgetExceededError: The ledger of the run, or one in `out`, has this stage already.
    """
    plan = make_plan(people, epsilon=epsilon, delta=delta)
    out.mkdir(parents=True, exist_ok=True)
    if (run_dir / NAME).exists() and not (out / NAME).exists():
        shutil.copyfile(run_dir / NAME, out / NAME)
    with Ledger(out / NAME, plan) as ledger:
        moments = release(people, plan, ledger, encoder)
        promise = ledger.promise()
    facts = {"r2": encoder.r2, "r2_grey": encoder.r2_grey, "ridge": encoder.ridge}
    facts |= {"radius": encoder.radius, "mean_stddev": moments.mean_stddev}
    write_run(run_dir, out, encoder, moments, {"training": promise, "private_latents": facts})
    return promise


def encoder_for(run_dir: Path, pack: Path, describe: Describe, path: Path | None) -> Encoder:
    """The encoder stored at `path`, or a fitted one that is then stored there."""
    if path is not None and path.is_file():
        return Encoder.load(path)
    encoder = fit_encoder(run_dir, Pack.load(pack), describe)
    if path is not None:
        encoder.save(path)
    return encoder


def cutter(models: Path) -> Callable[[np.ndarray], np.ndarray | None]:
    """Cuts heads as `prepare` does; `models` holds the matte's ONNX file."""
    with_values = cutter_with_values(models)

    def cut(bgr: np.ndarray) -> np.ndarray | None:
        made = with_values(bgr)
        return None if made is None else made[0]

    return cut


def cutter_with_values(models: Path) -> Callable[[np.ndarray], tuple[np.ndarray, ...] | None]:
    """As `cutter`, with the code values beside the head."""
    aligner, matte = Aligner(), _Matte(models / "selfie_segmentation_256_f32.onnx")
    return lambda bgr: aligned(bgr, aligner, matte)


_FILE = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("run_dir", type=_FILE)
@click.option("--private", type=_FILE, required=True, help="Folder with manifest.csv.")
@click.option("--pack", type=_FILE, required=True, help="The public pack of the run.")
@click.option("--features", "features_path", type=_FILE, required=True, help="The feature net.")
@click.option("--models", type=_FILE, default=Path("../shared/data/models"), show_default=True)
@click.option("--encoder", "encoder_path", type=click.Path(path_type=Path), help="Kept there.")
@click.option("--epsilon", type=float, required=True, help="Budget per person.")
@click.option("--delta", default=1e-5, show_default=True)
@click.option("--with-grey/--no-with-grey", default=False, help="Use pictures without colour.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def main(
    run_dir: Path,
    private: Path,
    pack: Path,
    features_path: Path,
    models: Path,
    encoder_path: Path | None,
    epsilon: float,
    delta: float,
    with_grey: bool,
    out: Path,
) -> None:
    """Move RUN_DIR's latents toward the private people; write the run and its ledger to OUT."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    describe = describer(load_features(features_path))
    encoder = encoder_for(run_dir, pack, describe, encoder_path)
    _log.info("encoder: R^2 %.3f, of grey pictures %.3f", encoder.r2, encoder.r2_grey)
    people = load_people(private, with_grey=with_grey)
    latents = people.map_pictures(encoder_of(encoder, describe, cutter(models)))
    promise = move_run(run_dir, out, latents, encoder, epsilon=epsilon, delta=delta)
    click.echo(f"epsilon {promise['epsilon']:.4f} at delta {promise['delta']:g} per person")


if __name__ == "__main__":
    main()
