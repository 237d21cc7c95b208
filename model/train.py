"""Public pretraining of the head generator: latents and decoder together, then the game.

Latents are optimized with the decoder (GLO, Bojanowski et al. 2018), the code's landmarks are the
condition; the game is a projected GAN (Sauer et al. 2021). One run is one pure step over a tree of
arrays, so that it is the same on two CPU cores and on a GPU.
"""

import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from veilcam.model import checkpoint, report
from veilcam.model.config import TrainConfig, load_config, read_table
from veilcam.model.data import SIMULATED, Pack, sample
from veilcam.model.discriminator import Discriminator
from veilcam.model.feature_net import FEATURE_NAMES, load_features
from veilcam.model.game import Mix, discriminator_loss, generator_loss
from veilcam.model.generator import NOISE_SIZE, HeadGenerator
from veilcam.model.provenance import provenance

_log = logging.getLogger(__name__)
_GAME_TRUNCATION = 0.9  # draws further out are never used
_WARM_UP = 100  # steps until the learning rate is reached
_DISTRIBUTION_EVERY = 50
State = dict[str, Any]


def initial_latents(pack: Pack) -> np.ndarray:
    """Principal components of small pictures, averaged over a person's pictures, unit variance."""
    small = np.stack(
        [cv2.resize(bgra, (16, 16), interpolation=cv2.INTER_AREA) for bgra in pack.bgra]
    )
    small = small.astype(np.float32) / 255
    flat = small.reshape(len(small), -1)
    num_people = len(pack.people)
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
    """A run: `state` is all that changes, a tree of arrays; `step()` moves it and returns logs."""

    def __init__(self, config: TrainConfig, pack: Pack) -> None:
        self.config = config
        self.pack = pack.with_mirrored()
        self.step_index = 0
        dtype = jnp.dtype(config.compute_dtype)
        self._mix = Mix(
            pixel_weight=config.pixel_weight,
            feature_weight=config.feature_weight,
            adversarial_weight=config.adversarial_weight,
            drift_weight=config.drift_weight,
            rounds=config.quantize_aware,
            latent_weight=1e-3,
            dtype=dtype,
        )
        features = load_features(Path(config.features), dtype)
        rngs = nnx.Rngs(config.seed)
        self._generator = _Module(HeadGenerator(pack.basis, rngs=rngs))
        num_maps = pack.basis["groups"].shape[0]
        channels = tuple(features[name].shape[-1] for name in FEATURE_NAMES)
        self._discriminator = _Module(Discriminator(channels, num_maps, rngs=rngs))
        self._frozen = {
            "features": features,
            "mixer": self._discriminator.rest,
            "basis": {name: jnp.asarray(value) for name, value in pack.basis.items()},
            "pack": self.pack.arrays(),
        }
        self._adam = optax.scale_by_adam(b1=0.0, b2=0.99)
        self._latent_adam = optax.scale_by_adam(b1=0.5, b2=0.99)
        weights = {
            "generator": self._generator.params,
            "discriminator": self._discriminator.params,
            "latents": jnp.asarray(initial_latents(self.pack)),
        }
        self.state: State = weights | {
            "average": jax.tree.map(jnp.copy, weights["generator"]),
            "opt_generator": self._adam.init(weights["generator"]),
            "opt_discriminator": self._adam.init(weights["discriminator"]),
            "opt_latents": self._latent_adam.init(weights["latents"]),
        }
        self._step = jax.jit(self._traced_step, static_argnames="playing", donate_argnums=0)

    @property
    def people(self) -> tuple[str, ...]:
        """Name of each latent."""
        return self.pack.people

    @property
    def basis(self) -> dict[str, np.ndarray]:
        """Arrays of the head model."""
        return self.pack.basis

    def latent_distribution(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and lower Cholesky factor of the portraits' latents (appearance, then shape)."""
        portraits = self.pack.domain != SIMULATED
        table = np.asarray(self.state["latents"])
        joint = np.concatenate(
            [table[self.pack.person[portraits]], self.pack.shape[portraits]], axis=1
        )
        covariance = np.cov(joint.T) + 1e-4 * np.eye(joint.shape[1])
        return joint.mean(0).astype(np.float32), np.linalg.cholesky(covariance).astype(np.float32)

    def averaged_generator(self) -> HeadGenerator:
        """A generator with the averaged weights."""
        generator: HeadGenerator = self._generator.build(self.state["average"])
        return generator

    def rates(self) -> tuple[float, float, float]:
        """Step sizes of generator, discriminator and latents at this step."""
        c, step = self.config, self.step_index
        rise = min(1.0, (step + 1) / _WARM_UP)
        if step < c.reconstruction_steps:
            return c.learning_rate * rise, 0.0, c.latent_learning_rate
        left = (c.total_steps - step) / max(1, c.total_steps - c.reconstruction_steps)
        fall = 0.05 + 0.95 * math.sin(min(1.0, left / 0.5) * math.pi / 2)  # in the second half
        return (
            c.adversarial_learning_rate * fall,
            c.discriminator_learning_rate * fall,
            c.latent_learning_rate * fall / 4,
        )

    def step(self) -> dict[str, jax.Array]:
        """One generator step and, once the game is on, one discriminator step."""
        if self.step_index % _DISTRIBUTION_EVERY == 0 or not hasattr(self, "_distribution"):
            self._distribution = tuple(jnp.asarray(x) for x in self.latent_distribution())
        decay = min(self.config.ema, (1 + self.step_index) / (10 + self.step_index))
        key = jax.random.fold_in(jax.random.key(self.config.seed), self.step_index)
        numbers = jnp.asarray([*self.rates(), decay], jnp.float32)
        playing = self.step_index >= self.config.reconstruction_steps
        self.state, logs = self._step(
            self.state, self._frozen, self._distribution, numbers, key, playing=playing
        )
        self.step_index += 1
        return logs

    def _traced_step(
        self, state: State, frozen: State, distribution: Any, numbers: Any, key: Any, playing: bool
    ) -> tuple[State, dict[str, jax.Array]]:
        c = self.config
        keys = jax.random.split(key, 4)
        batch = sample(
            frozen["pack"], frozen["basis"], c.batch_portraits, c.batch_simulated, key=keys[0]
        )
        fake = None
        if playing:
            fake = _draw(batch, state["latents"], distribution, c.batch_portraits, keys[1])

        def generator_side(weights: State) -> Any:
            generator = self._generator.build(self._cast(weights["generator"]))
            judge = None
            if playing:
                judge = self._discriminator.build(state["discriminator"], frozen["mixer"])
            return generator_loss(
                generator,
                weights["latents"],
                judge,
                frozen["features"],
                batch,
                fake,
                self._mix,
                key=keys[2],
            )

        moved = {"generator": state["generator"], "latents": state["latents"]}
        gradient, (logs, painted) = jax.grad(generator_side, has_aux=True)(moved)
        out = dict(state)
        _move(out, "generator", self._adam, gradient["generator"], numbers[0])
        _move(out, "latents", self._latent_adam, gradient["latents"], numbers[2])
        if playing:
            real = {name: value[: c.batch_portraits] for name, value in batch.items()}

            def discriminator_side(weights: State) -> Any:
                return discriminator_loss(
                    self._discriminator.build(weights, frozen["mixer"]),
                    self._generator.build(state["generator"]),
                    frozen["features"],
                    real,
                    fake | {"image": painted},
                    self._mix,
                    key=keys[3],
                )

            gradient, more = jax.grad(discriminator_side, has_aux=True)(state["discriminator"])
            _move(out, "discriminator", self._adam, gradient, numbers[1])
            logs |= more
        decay = numbers[3]
        out["average"] = jax.tree.map(
            lambda a, b: a * decay + b * (1 - decay), state["average"], out["generator"]
        )
        return out, logs

    def _cast(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(self._mix.dtype), tree)


class _Module:
    """A module taken apart: its structure, its weights as a plain tree, and what never changes."""

    def __init__(self, module: Any) -> None:
        self._graph, self._template, self.rest = nnx.split(module, nnx.Param, ...)
        self.params = nnx.to_pure_dict(self._template)

    def build(self, params: Any, rest: Any = None) -> Any:
        """The module with these weights."""
        state = jax.tree.map(lambda x: x, self._template)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(self._graph, state, self.rest if rest is None else rest)


def _draw(
    batch: dict[str, jax.Array], table: jax.Array, distribution: Any, count: int, key: jax.Array
) -> dict[str, jax.Array]:
    """Heads for the game: codes of the batch's portraits with others' looks.

    One half are random draws; the other are portraits' own latents in another's pose.
    """
    mean, chol = distribution
    keys = jax.random.split(key, 2)
    drawn = mean + _GAME_TRUNCATION * jax.random.normal(keys[0], (count, len(mean))) @ chol.T
    own = jnp.concatenate([table[batch["person"][:count]], batch["shape"][:count]], axis=1)
    own = jnp.roll(jax.lax.stop_gradient(own), 1, axis=0)
    is_drawn = jnp.arange(count)[:, None] % 2 == 0
    return {"values": batch["values"][:count], "latent": jnp.where(is_drawn, drawn, own)}


def _move(state: State, name: str, adam: Any, gradient: Any, rate: jax.Array) -> None:
    """One Adam step of a part of the state, in place of its dictionary entry."""
    update, state[f"opt_{name}"] = adam.update(gradient, state[f"opt_{name}"])
    state[name] = jax.tree.map(lambda w, u: w - rate * u, state[name], update)


def train(
    config_path: Path, *, resume: bool = False, run_dir: Path, max_minutes: float | None = None
) -> Path | dict[str, Any]:
    """Trains until the last step or the time is up; checkpoints, sheet and plot go to run_dir.

    A config with `generator = "actor"` trains that of `scene` mode: see `model.actor_train`. One
    with a `route` moves a trained run toward private people: see `model.private_adapt`.
    """
    if read_table(config_path).get("generator") == "actor":
        from veilcam.model.actor_train import train as train_actor

        train_actor(config_path, resume=resume, run_dir=run_dir, max_minutes=max_minutes)
        return run_dir
    if read_table(config_path).get("generator") == "painter":
        from veilcam.model.painter_train import train as train_painter

        train_painter(config_path, resume=resume, run_dir=run_dir, max_minutes=max_minutes)
        return run_dir
    if "route" in read_table(config_path):
        from veilcam.model.private_adapt import train as train_private

        return train_private(config_path, resume=resume, run_dir=run_dir, max_minutes=max_minutes)
    config = load_config(config_path)
    pack = Pack.load(Path(config.pack))
    run_dir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    end = start + max_minutes * 60 if max_minutes else float("inf")
    trainer = Trainer(config, pack)
    if resume:
        checkpoint.restore(trainer, run_dir)
    meta = {"config": dataclasses.asdict(config), "data": provenance(pack.manifest)}
    history = report.History(run_dir / "log.csv", keep=resume)
    first, clock = trainer.step_index, time.monotonic()
    while trainer.step_index < config.total_steps and time.monotonic() < end:
        logs = trainer.step()
        done = trainer.step_index
        if done % config.log_every == 0:
            numbers = {name: float(value) for name, value in logs.items()}
            rate = (done - first) / (time.monotonic() - clock)
            history.add(done, numbers | {"steps_per_s": rate})
            if not all(math.isfinite(value) for value in numbers.values()):
                raise FloatingPointError(f"step {done}: a loss is not finite; lower the rates")
            if first == done - config.log_every:  # the first steps compile
                first, clock = done, time.monotonic()
        if done % config.checkpoint_every == 0:
            checkpoint.save(trainer, run_dir, meta)
            report.sample_sheet(trainer, run_dir / "sheet.png")
            history.plot(run_dir / "loss.png")
    checkpoint.save(trainer, run_dir, meta)
    report.sample_sheet(trainer, run_dir / "sheet.png")
    history.plot(run_dir / "loss.png")
    return run_dir
