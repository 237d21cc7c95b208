"""Training of the actor generator: latents of simulated people and decoder together.

Latents are optimized with the decoder (GLO, Bojanowski et al. 2018); pose, looks and light are the
condition. One run is one pure step over a tree of arrays, as in `model.train`.
"""

import dataclasses
import logging
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from veilcam.model import checkpoint, report
from veilcam.model.actor import NOISE_SIZE, ActorGenerator
from veilcam.model.actor_config import ActorConfig, load_actor_config
from veilcam.model.actor_data import EVEN_LIGHT, ActorPack, Arrays, face_window, sample
from veilcam.model.feature_net import Weights, features, load_features
from veilcam.model.loss import feature_distance, over, through, weighted_pyramid
from veilcam.model.provenance import provenance

_log = logging.getLogger(__name__)
_WARM_UP = 100  # steps until the learning rate is reached
_FACE_WEIGHT = 3.0
State = dict[str, Any]


class ActorTrainer:
    """A run: `state` is all that changes, a tree of arrays; `step()` moves it and returns logs."""

    def __init__(self, config: ActorConfig, pack: ActorPack) -> None:
        self.config, self.pack, self.step_index = config, pack, 0
        generator = ActorGenerator(EVEN_LIGHT, rngs=nnx.Rngs(config.seed))
        self._graph, self._template, self._rest = nnx.split(generator, nnx.Param, ...)
        params = nnx.to_pure_dict(self._template)
        random = np.random.default_rng(config.seed)
        latents = 0.3 * random.standard_normal((len(pack.people), NOISE_SIZE))
        weights = {"generator": params, "latents": jnp.asarray(latents, jnp.float32)}
        self._adam = optax.scale_by_adam(b1=0.9, b2=0.99)
        self.state: State = weights | {
            "average": jax.tree.map(jnp.copy, params),
            "opt_generator": self._adam.init(weights["generator"]),
            "opt_latents": self._adam.init(weights["latents"]),
        }
        net = load_features(Path(config.features)) if config.features else {}
        self._frozen = {"pack": pack.arrays(), "features": net}
        self._step = jax.jit(self._traced_step, donate_argnums=0)

    @property
    def people(self) -> tuple[str, ...]:
        """Name of each latent."""
        return self.pack.people

    @property
    def basis(self) -> dict[str, np.ndarray]:
        """Constants of the generator."""
        return {"light": EVEN_LIGHT}

    def latent_distribution(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and lower Cholesky factor of the people's latents."""
        table = np.asarray(self.state["latents"])
        covariance = np.cov(table.T) + 1e-4 * np.eye(table.shape[1])
        return table.mean(0).astype(np.float32), np.linalg.cholesky(covariance).astype(np.float32)

    def averaged_generator(self) -> ActorGenerator:
        """A generator with the averaged weights."""
        return self._build(self.state["average"])

    def _build(self, params: Any) -> ActorGenerator:
        state = jax.tree.map(lambda x: x, self._template)
        nnx.replace_by_pure_dict(state, params)
        generator: ActorGenerator = nnx.merge(self._graph, state, self._rest)
        return generator

    def step(self) -> dict[str, jax.Array]:
        """One step of decoder and latents."""
        c, index = self.config, self.step_index
        rise = min(1.0, (index + 1) / _WARM_UP)
        fall = 0.02 + 0.98 * math.cos(min(1.0, index / c.total_steps) * math.pi / 2)
        decay = min(c.ema, (1 + index) / (10 + index))
        numbers = jnp.asarray(
            [c.learning_rate * rise * fall, c.latent_learning_rate * fall, decay], jnp.float32
        )
        key = jax.random.fold_in(jax.random.key(c.seed), index)
        self.state, logs = self._step(self.state, self._frozen, numbers, key)
        self.step_index += 1
        return logs

    def _traced_step(
        self, state: State, frozen: State, numbers: Any, key: Any
    ) -> tuple[State, dict[str, jax.Array]]:
        keys = jax.random.split(key, 2)
        batch = sample(frozen["pack"], self.config.batch, key=keys[0])
        moved = {"generator": state["generator"], "latents": state["latents"]}
        gradient, logs = jax.grad(self._loss, has_aux=True)(
            moved, batch, frozen["features"], keys[1]
        )
        out = dict(state)
        for name, rate in (("generator", numbers[0]), ("latents", numbers[1])):
            update, out[f"opt_{name}"] = self._adam.update(gradient[name], state[f"opt_{name}"])
            out[name] = jax.tree.map(lambda w, u, r=rate: w - r * u, state[name], update)
        out["average"] = jax.tree.map(
            lambda a, b: a * numbers[2] + b * (1 - numbers[2]), state["average"], out["generator"]
        )
        return out, logs

    def _loss(self, weights: State, batch: Arrays, net: Weights, key: Any) -> Any:
        c, keys = self.config, jax.random.split(key, 2)
        latent = weights["latents"][batch["identity"]]
        noisy = latent + c.latent_noise * jax.random.normal(keys[0], latent.shape)
        generator = self._build(weights["generator"])
        paint = partial(generator.paint_linear, rounds=c.quantize_aware)
        painted = jax.vmap(paint)(batch["values"], noisy, batch["light"])
        grounds = jax.random.uniform(keys[1], (c.batch, 3))
        wanted, got = over(batch["image"], grounds), over(through(painted), grounds)
        difference = jnp.concatenate([got, painted[..., 3:]], axis=-1)
        difference = difference - jnp.concatenate([wanted, batch["image"][..., 3:]], axis=-1)
        weight = 1 + _FACE_WEIGHT * face_window(batch["face"])
        pixels = weighted_pyramid(difference, weight)
        loss = pixels + 1e-3 * jnp.square(latent).mean()
        logs = {"pixels": pixels, "latent_size": jnp.sqrt(jnp.square(latent).mean())}
        if net:
            likeness = feature_distance(*(features(net, _pairs(x)) for x in (got, wanted)))
            loss = loss + c.feature_weight * likeness
            logs["likeness"] = likeness
        return loss, logs


def _pairs(bgr: jax.Array) -> jax.Array:
    """Two people beside each other: the square RGB picture that the feature net wants."""
    rgb = bgr[..., ::-1] * 2 - 1
    return jnp.concatenate([rgb[0::2], rgb[1::2]], axis=2)


def held_out_psnr_db(trainer: ActorTrainer) -> float:
    """PSNR over grey of pictures that were kept from training, painted from their exact pose."""
    pack, rows = trainer.pack, trainer.pack.rows(held_out=True)
    yaw = np.deg2rad(pack.yaw[rows])
    facing = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    statics = pack.statics[pack.identity[rows]]
    points = pack.points[rows].reshape(len(rows), -1)
    values = np.concatenate([points, pack.seen[rows], facing, statics], axis=1)
    latents = np.asarray(trainer.state["latents"])[pack.identity[rows]]
    painted = paint_lit(trainer.averaged_generator(), values, latents, pack.light[rows])
    real = pack.bgra[rows].astype(np.float32) / 255
    both = [x[..., :3] * x[..., 3:] + 0.5 * (1 - x[..., 3:]) for x in (painted, real)]
    return float(-10 * np.log10(np.mean(np.square(both[0] - both[1]))))


def paint_lit(
    generator: ActorGenerator, values: np.ndarray, latents: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """BGRA in [0, 1] of a batch."""
    arguments = (x.astype(np.float32) for x in (values, latents, light))
    return np.clip(np.asarray(_paint_lit(generator, *arguments)), 0, 1)


@nnx.jit
def _paint_lit(generator: Any, values: Any, latents: Any, light: Any) -> jax.Array:
    return jax.vmap(generator.paint_linear)(values, latents, light)


def sample_sheet(trainer: ActorTrainer, path: Path) -> None:
    """Held-out pictures, the same painted, and others' poses in the light that is shipped."""
    pack, rows = trainer.pack, trainer.pack.rows(held_out=True)[::10][:16]
    yaw = np.deg2rad(pack.yaw[rows])
    facing = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    pose = np.concatenate([pack.points[rows].reshape(len(rows), -1), pack.seen[rows], facing], 1)
    table, who = np.asarray(trainer.state["latents"]), pack.identity[rows]
    generator = trainer.averaged_generator()
    values = np.concatenate([pose, pack.statics[who]], axis=1)
    swapped = np.concatenate([pose, pack.statics[np.roll(who, 3)]], axis=1)
    even = np.broadcast_to(EVEN_LIGHT, (len(rows), len(EVEN_LIGHT)))
    strips = [
        pack.bgra[rows].astype(np.float32) / 255,
        paint_lit(generator, values, table[who], pack.light[rows]),
        paint_lit(generator, swapped, table[np.roll(who, 3)], even),
    ]
    over_grey = [x[..., :3] * x[..., 3:] + 0.5 * (1 - x[..., 3:]) for x in strips]
    sheet = np.vstack([np.hstack(list(x)) for x in over_grey])
    partial_path = path.with_name("partial_" + path.name)
    cv2.imwrite(str(partial_path), np.round(sheet * 255).astype(np.uint8))
    partial_path.replace(path)


def train(
    config_path: Path, *, resume: bool = False, run_dir: Path, max_minutes: float | None = None
) -> dict[str, Any]:
    """Trains until the last step or the time is up; checkpoints, sheet and plot go to run_dir."""
    config = load_actor_config(config_path)
    trainer = ActorTrainer(config, ActorPack.load(Path(config.pack)))
    run_dir.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + max_minutes * 60 if max_minutes else float("inf")
    if resume:
        checkpoint.restore(trainer, run_dir)
    meta: dict[str, Any] = {"config": dataclasses.asdict(config)}
    meta["data"] = provenance(trainer.pack.manifest)
    history = report.History(run_dir / "log.csv", keep=resume)
    first, clock = trainer.step_index, time.monotonic()
    while trainer.step_index < config.total_steps and time.monotonic() < end:
        logs = trainer.step()
        done = trainer.step_index
        if done % config.log_every == 0:
            numbers = {name: float(value) for name, value in logs.items()}
            rate = (done - first) / (time.monotonic() - clock)
            if done % config.checkpoint_every == 0:
                numbers["held_out_psnr_db"] = held_out_psnr_db(trainer)
            history.add(done, numbers | {"steps_per_s": rate})
            if not all(math.isfinite(value) for value in numbers.values()):
                raise FloatingPointError(f"step {done}: a loss is not finite; lower the rates")
        if done % config.checkpoint_every == 0:
            _keep(trainer, run_dir, meta, history)
    _keep(trainer, run_dir, meta, history)
    return {"steps": trainer.step_index, "held_out_psnr_db": held_out_psnr_db(trainer)}


def _keep(
    trainer: ActorTrainer, run_dir: Path, meta: dict[str, Any], history: report.History
) -> None:
    checkpoint.save(trainer, run_dir, meta)
    sample_sheet(trainer, run_dir / "sheet.png")
    history.plot(run_dir / "loss.png")
