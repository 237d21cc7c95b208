"""Public pretraining of the head generator: latents and decoder together, then the game.

Latents are optimized with the decoder (GLO, Bojanowski et al. 2018), the code's landmarks are the
condition; the adversarial loss is non-saturating with R1 (Mescheder et al. 2018).
"""

import dataclasses
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
from veilcam.model.config import TrainConfig, load_config
from veilcam.model.data import SIMULATED, Pack, Sampler
from veilcam.model.discriminator import Discriminator
from veilcam.model.game import Latents, discriminator_loss, generator_loss
from veilcam.model.generator import NOISE_SIZE, HeadGenerator
from veilcam.model.provenance import provenance

_GAME_TRUNCATION = 0.85  # draws far out are never used, and spoiled the game for the others


def initial_latents(pack: Pack) -> np.ndarray:
    """Principal components of small pictures, averaged over a person's pictures, unit variance."""
    small = np.stack(
        [cv2.resize(bgra, (16, 16), interpolation=cv2.INTER_AREA) for bgra in pack.bgra]
    )
    small = small.astype(np.float32) / 255
    flat = small.reshape(len(small), -1)
    num_people = int(pack.person.max()) + 1
    count = np.bincount(pack.person, minlength=num_people)[:, None]
    mean = np.zeros((num_people, flat.shape[1]), np.float32)
    np.add.at(mean, pack.person, flat)
    mean = mean / np.maximum(count, 1)
    mean -= mean.mean(0)
    u, singular, _ = np.linalg.svd(mean, full_matrices=False)
    components = u[:, :NOISE_SIZE] * singular[:NOISE_SIZE]
    latents = np.zeros((num_people, NOISE_SIZE), np.float32)  # fewer people, fewer components
    latents[:, : components.shape[1]] = components / np.maximum(components.std(0), 1e-6)
    return latents


class Trainer:
    """State of a run: models, optimizers, averages, step; `step()` does one and returns its log."""

    def __init__(self, config: TrainConfig, pack: Pack) -> None:
        self.config = config
        self.pack = pack
        self.step_index = 0
        rngs = nnx.Rngs(config.seed)
        self.generator = HeadGenerator(pack.basis, rngs=rngs)
        self.discriminator = Discriminator(pack.basis["groups"].shape[0], rngs=rngs)
        self.latents = Latents(initial_latents(pack))
        self.average = nnx.state(self.generator, nnx.Param)
        self._optimizers()
        self.sampler = Sampler(pack, seed=config.seed)

    def _optimizers(self) -> None:
        c = self.config
        rate = optax.join_schedules(
            [
                optax.linear_schedule(1e-4, c.learning_rate, 100),
                optax.constant_schedule(c.learning_rate),
                optax.constant_schedule(c.adversarial_learning_rate),
            ],
            [100, c.reconstruction_steps],
        )
        latent_rate = optax.join_schedules(
            [
                optax.constant_schedule(c.latent_learning_rate),
                optax.constant_schedule(c.latent_learning_rate / 4),
            ],
            [c.reconstruction_steps],
        )
        self.generator_opt = nnx.Optimizer(
            self.generator, optax.adam(rate, b1=0.5, b2=0.99), wrt=nnx.Param
        )
        self.latent_opt = nnx.Optimizer(
            self.latents, optax.adam(latent_rate, b1=0.5, b2=0.99), wrt=nnx.Param
        )
        self.discriminator_opt = nnx.Optimizer(
            self.discriminator,
            optax.adam(c.discriminator_learning_rate, b1=0.0, b2=0.99),
            wrt=nnx.Param,
        )

    def latent_distribution(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and lower Cholesky factor of the portraits' latents (appearance, then shape)."""
        portraits = self.pack.domain != SIMULATED
        table = np.asarray(self.latents.table[...])
        joint = np.concatenate(
            [table[self.pack.person[portraits]], self.pack.shape[portraits]], axis=1
        )
        covariance = np.cov(joint.T) + 1e-4 * np.eye(joint.shape[1])
        return joint.mean(0).astype(np.float32), np.linalg.cholesky(covariance).astype(np.float32)

    def step(
        self, next_batch: dict[str, np.ndarray], random: np.random.Generator
    ) -> dict[str, Any]:
        """One generator step and, once the game is on, one discriminator step."""
        c = self.config
        key = jax.random.key(int(random.integers(2**31)))
        playing = self.step_index >= c.reconstruction_steps
        fake = self._draw(random, next_batch["values"]) if playing else None
        weight = min(1.0, (self.step_index - c.reconstruction_steps) / 400) if playing else 0.0
        logs = generator_step(
            self.generator,
            self.latents,
            self.discriminator,
            self.generator_opt,
            self.latent_opt,
            next_batch,
            fake,
            jnp.float32(weight),
            c.reconstruction_weight,
            key,
        )
        if playing:
            count = c.batch_portraits
            real = {k: v[:count] for k, v in next_batch.items()}
            logs |= discriminator_step(
                self.discriminator,
                self.generator,
                self.discriminator_opt,
                real,
                {k: v[:count] for k, v in fake.items()},
                c.r1_weight * c.r1_every,
                jax.random.fold_in(key, 1),
                self.step_index % c.r1_every == 0,
            )
        decay = c.ema if self.step_index > 200 else 0.9
        self.average = average_step(self.average, nnx.state(self.generator, nnx.Param), decay)
        self.step_index += 1
        return logs

    def _draw(self, random: np.random.Generator, values: np.ndarray) -> dict[str, np.ndarray]:
        """Random heads: latents from the portraits' Gaussian, codes of the batch's portraits."""
        if self.step_index % 50 == 0 or not hasattr(self, "_distribution"):
            self._distribution = self.latent_distribution()
        mean, chol = self._distribution
        count = self.config.batch_adversarial
        noise = random.standard_normal((count, len(mean))).astype(np.float32)
        rows = random.permutation(self.config.batch_portraits)
        rows = np.resize(rows, count)
        return {"values": values[rows], "latent": mean + _GAME_TRUNCATION * noise @ chol.T}

    def averaged_generator(self) -> HeadGenerator:
        """A generator with the averaged weights."""
        graph, _, rest = nnx.split(self.generator, nnx.Param, ...)
        return nnx.merge(graph, self.average, rest)


@partial(nnx.jit, static_argnames=("reconstruction_weight",))
def generator_step(
    generator: HeadGenerator,
    latents: Latents,
    discriminator: Discriminator,
    generator_opt: nnx.Optimizer,
    latent_opt: nnx.Optimizer,
    batch: dict[str, Any],
    fake: dict[str, Any] | None,
    weight: jax.Array,
    reconstruction_weight: float,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Moves generator and latents one step."""

    def loss(models: tuple[HeadGenerator, Latents]) -> Any:
        return generator_loss(
            models, discriminator, batch, fake, weight, reconstruction_weight, key
        )

    (_, logs), gradient = nnx.value_and_grad(loss, has_aux=True)((generator, latents))
    generator_opt.update(generator, gradient[0])
    latent_opt.update(latents, gradient[1])
    return logs


@partial(nnx.jit, static_argnames=("with_r1",))
def discriminator_step(
    discriminator: Discriminator,
    generator: HeadGenerator,
    optimizer: nnx.Optimizer,
    real: dict[str, Any],
    fake: dict[str, Any],
    r1_weight: Any,  # a number, or its tracer under jit
    key: jax.Array,
    with_r1: bool,
) -> dict[str, jax.Array]:
    """Moves the discriminator one step."""

    def loss(model: Discriminator) -> Any:
        return discriminator_loss(model, generator, real, fake, r1_weight, key, with_r1)

    (_, logs), gradient = nnx.value_and_grad(loss, has_aux=True)(discriminator)
    optimizer.update(discriminator, gradient)
    return logs


@jax.jit
def average_step(average: Any, current: Any, decay: Any) -> Any:
    """Exponential moving average of the weights."""
    return jax.tree.map(lambda a, b: a * decay + b * (1 - decay), average, current)


def train(
    config_path: Path, *, resume: bool = False, run_dir: Path, max_minutes: float | None = None
) -> Path:
    """Trains until the last step or the time is up; checkpoints, sheet and plot go to run_dir."""
    config = load_config(config_path)
    pack = Pack.load(Path(config.pack))
    run_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, pack)
    if resume:
        checkpoint.restore(trainer, run_dir)
    meta = {"config": dataclasses.asdict(config), "data": provenance(pack.manifest)}
    end = time.monotonic() + max_minutes * 60 if max_minutes else float("inf")
    random = np.random.default_rng([config.seed, trainer.step_index])
    trainer.sampler = Sampler(pack, seed=config.seed + trainer.step_index)
    history = report.History(run_dir / "log.csv", keep=resume)
    start, first = time.monotonic(), trainer.step_index
    with report.Prefetch(
        lambda: trainer.sampler.batch(config.batch_portraits, config.batch_simulated)
    ) as batches:
        while trainer.step_index < config.total_steps and time.monotonic() < end:
            logs = trainer.step(batches.get(), random)
            done = trainer.step_index
            if done % 25 == 0:
                rate = (done - first) / (time.monotonic() - start)
                history.add(done, {k: float(v) for k, v in logs.items()} | {"steps_per_s": rate})
            if done % config.sheet_every == 0:
                report.sample_sheet(trainer, run_dir / "sheet.png")
                history.plot(run_dir / "loss.png")
            if done % config.checkpoint_every == 0:
                checkpoint.save(trainer, run_dir, meta)
    checkpoint.save(trainer, run_dir, meta)
    report.sample_sheet(trainer, run_dir / "sheet.png")
    return run_dir
