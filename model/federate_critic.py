"""The face bundle's discriminator over cameras: the fleet judges, the bundle's prior follows.

What a camera learns from are the heads of its people, cut and described as the face bundle's own
training does it, along the first whitened axes of *public* portraits. The federation's task `head`
makes of them a discriminator D of the fleet's people against those portraits, in secure, noisy
rounds. When it has ended D is public, and the prior follows it without any person:

    z ~ N(0, 1),  D(u(G(code, mean + chol z))) = a + b z + rest;   the mean moves by chol b.

exp(D) is the ratio of the two densities, and a Gaussian that is weighed by exp(a + b z) is the same
Gaussian, moved by b. The slope b is found by least squares over painted heads, so the network's
weights and the covariance stay public.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from veilcam.camera.errors import ConfigError, InputError
from veilcam.model import private_latents as pl
from veilcam.model.checkpoint import load_generator
from veilcam.model.data import SIMULATED, Pack
from veilcam.model.feature_net import load_features
from veilcam.model.federate_data import Basis, write_features
from veilcam.model.federate_result import latents_of, read_result
from veilcam.model.federate_task import Head, load_public
from veilcam.model.prepare import over_grey
from veilcam.model.private_space import fit_space

_log = logging.getLogger(__name__)
_DRAWS, _CHUNK, _SEED = 3000, 50, 11  # of painted heads; the seed is public randomness
_RIDGE = 1e-3
_MOST = 3.0  # standard deviations of the prior that its mean may move by
_GREY = 127.0
Score = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, " n"]]
Paint = Callable[[Float[np.ndarray, "n z"]], Float[np.ndarray, "n d"]]


def write_critic(pack_path: Path, net: Path, out: Path, size: int) -> dict[str, Any]:
    """The kit's public file: portraits of the public pack as the critic sees them, and its axes.

    Raises:
        InputError: The pack has no more portraits than axes are wanted.
    """
    pack = Pack.load(pack_path)
    rows = np.flatnonzero(pack.domain != SIMULATED)
    if len(rows) <= 2 * size:
        raise InputError(f"{pack_path}: {len(rows)} portraits are too few for {size} axes")
    described = pl.describer(load_features(net))(np.stack([over_grey(b) for b in pack.bgra[rows]]))
    space = fit_space(described, size)
    basis = Basis(space.mean, space.components / space.scale[:, None])
    order = np.random.default_rng(_SEED).permutation(len(rows))  # every fifth is held out
    sha256 = write_features(out, described[order], basis, values=pack.values[rows])
    return {
        "out": str(out), "portraits": len(rows), "share": round(space.share, 3),
        "public_sha256": sha256,
    }  # fmt: skip


def slope(
    noise: Float[np.ndarray, "n z"], scores: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " z"], float]:
    """Least squares' b of scores = a + b noise, and the share of their variance it explains."""
    centered, target = noise - noise.mean(0), scores - scores.mean()
    gram = centered.T @ centered + _RIDGE * len(noise) * np.eye(noise.shape[1])
    b = np.linalg.solve(gram, centered.T @ target)
    total = float(target @ target)
    explained = 1 - float(np.square(target - centered @ b).sum()) / total if total else 0.0
    return b, explained


def follow(
    score: Score, paint: Paint, size: int
) -> tuple[Float[np.ndarray, " z"], dict[str, float]]:
    """Where a released discriminator moves the prior's mean, in its own standard deviations.

    Args:
        score: D of features.
        paint: White noise -> features of the heads it paints.
        size: Numbers of the noise.
    """
    noise = np.random.default_rng(_SEED).standard_normal((_DRAWS, size)).astype(np.float32)
    parts = [paint(noise[start : start + _CHUNK]) for start in range(0, _DRAWS, _CHUNK)]
    b, explained = slope(noise.astype(np.float64), score(np.concatenate(parts)).astype(np.float64))
    length = float(np.linalg.norm(b))
    shift = b * min(1.0, _MOST / max(length, 1e-12))
    told = {"slope": length, "moved": float(np.linalg.norm(shift)), "explained": explained}
    return shift, {name: round(value, 4) for name, value in told.items()}


def painter(run_dir: Path, net: Path, public: Path) -> Paint:
    """`paint` of `follow` by a run's generator, at public codes and latents from its prior."""
    generator, _, latents = load_generator(run_dir)
    basis, weights = Basis.load(public), load_features(net)
    with np.load(public) as file:
        values = file["values"]
    if len(basis.mean) != _described_size(weights):
        raise InputError(f"{public}: not described by {net}; give the net the kit was made with")
    random = np.random.default_rng(_SEED)

    @jax.jit
    def described(codes: jax.Array, latent: jax.Array) -> jax.Array:
        patch = jax.vmap(generator.paint)(codes, latent)
        seen = patch[..., :3] * patch[..., 3:] + _GREY / 255 * (1 - patch[..., 3:])
        return pl.described(weights, seen[..., ::-1] * 2 - 1)

    def paint(noise: Float[np.ndarray, "n z"]) -> Float[np.ndarray, "n d"]:
        codes = values[random.integers(0, len(values), len(noise))]
        latent = latents["mean"] + noise @ latents["chol"].T
        return basis(np.asarray(described(jnp.asarray(codes), jnp.asarray(latent, jnp.float32))))

    return paint


def _described_size(weights: Any) -> int:
    return int(jax.eval_shape(partial(pl.described, weights), jnp.zeros((1, 128, 128, 3))).shape[1])


def finish(folder: Path, run_dir: Path, net: Path, out: Path) -> dict[str, Any]:
    """Moves a public run by the discriminator of the federation of `folder`; returns the promise.

    Doing it again costs nothing: the discriminator is public by then.

    Raises:
        ConfigError: The federation learned another task, or on features of another kind.
        PrivacyError: See `read_result`.
    """
    result = read_result(folder, run_dir, "head")
    federation = result.federation
    public = folder / "public.npz"
    with np.load(public) as file:
        if "values" not in file.files:
            raise ConfigError(
                f"{folder}: not a federation of the face bundle's discriminator; its public.npz is "
                "made by `veilcam federate critic`"
            )
    head = Head(federation, load_public(public, federation))
    paint = painter(run_dir, net, public)
    mean, chol = latents_of(run_dir)
    shift, told = follow(lambda rows: head.scores(result.average, rows), paint, len(mean))
    facts = {
        "federation": federation.name, "fingerprint": federation.fingerprint,
        "cameras": federation.num_nodes, "min_nodes": federation.min_nodes,
        "axes": federation.feature_size, "rounds": federation.rounds, **told,
    }  # fmt: skip
    result.write(run_dir, out, {"federated_critic": facts}, mean=mean + chol @ shift)
    return {"out": str(out), "training": result.training, "federated_critic": facts}
