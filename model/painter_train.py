"""Training of the painter: codes with the camera's own noise in, public scenes out.

One run is one pure step over a tree of arrays, as in `model.train`. Batches are coded by the
camera's own functions, so that painter and camera speak one code.
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

from veilcam.camera.painting import NOISE_SIZE
from veilcam.camera.strength import CHOICES
from veilcam.model import checkpoint, report
from veilcam.model.discriminator import Discriminator
from veilcam.model.feature_net import features, load_features
from veilcam.model.loss import feature_distance, through
from veilcam.model.painter import Painter
from veilcam.model.painter_config import PainterConfig, load_painter_config
from veilcam.model.painter_data import Sampler, ScenePack, encode, painted_size
from veilcam.model.painter_game import (
    discriminator_loss,
    draw_corner,
    given,
    judge,
    new_discriminator,
    part,
)
from veilcam.model.provenance import provenance

_log = logging.getLogger(__name__)
_WARM_UP = 50  # steps until the learning rate is reached
# Of the pixels' distance, and how far from zero it is smooth: a painter starts nearly right, where
# an absolute difference has its full slope, and shakes the weights.
_PIXEL_WEIGHT, _SMOOTH = 4.0, 0.03
_LOOKED_AT = 2  # one of so many pictures is shown to the feature net, a part of it
State = dict[str, Any]


class PainterTrainer:
    """A run: `state` is all that changes, a tree of arrays; `step()` moves it and returns logs."""

    def __init__(self, config: PainterConfig, pack: ScenePack) -> None:
        self.config, self.pack, self.step_index = config, pack, 0
        self._sample = Sampler(pack, seed=config.seed)
        self._graph, self._template, self._rest = nnx.split(
            Painter(rngs=nnx.Rngs(config.seed)), nnx.Param, ...
        )
        params = nnx.to_pure_dict(self._template)
        self._adam = {
            name: optax.scale_by_adam(b1=b1, b2=0.99)
            for name, b1 in (("generator", 0.9), ("discriminator", 0.5))
        }
        self.state: State = {
            "generator": params,
            "average": jax.tree.map(jnp.copy, params),
            "opt_generator": self._adam["generator"].init(params),
        }
        self._net = load_features(Path(config.features)) if config.features else {}
        if self._net:
            other_side = new_discriminator(self._net, seed=config.seed)
            self._judge_graph, self._judge_template, self._mixer = nnx.split(
                other_side, nnx.Param, ...
            )
            weights = nnx.to_pure_dict(self._judge_template)
            moments = self._adam["discriminator"].init(weights)
            self.state |= {"discriminator": weights, "opt_discriminator": moments}
        self._step = jax.jit(self._traced_step, static_argnames="playing", donate_argnums=0)

    @property
    def people(self) -> tuple[str, ...]:
        """Nobody: the latent is a map of noise."""
        return ()

    @property
    def basis(self) -> dict[str, np.ndarray]:
        """The painter needs no constants."""
        return {}

    def latent_distribution(self) -> tuple[np.ndarray, np.ndarray]:
        """The standard Gaussian."""
        return np.zeros(NOISE_SIZE, np.float32), np.eye(NOISE_SIZE, dtype=np.float32)

    def averaged_generator(self) -> Painter:
        """A painter with the averaged weights."""
        return self._build(self.state["average"])

    def _build(self, params: Any) -> Painter:
        state = jax.tree.map(lambda x: x, self._template)
        nnx.replace_by_pure_dict(state, params)
        painter: Painter = nnx.merge(self._graph, state, self._rest)
        return painter

    def _build_judge(self, params: Any) -> Discriminator:
        state = jax.tree.map(lambda x: x, self._judge_template)
        nnx.replace_by_pure_dict(state, params)
        other_side: Discriminator = nnx.merge(self._judge_graph, state, self._mixer)
        return other_side

    def step(self) -> dict[str, jax.Array]:
        """One step of the painter and, once the game is on, one of the discriminator."""
        c, index = self.config, self.step_index
        rise = min(1.0, (index + 1) / _WARM_UP)
        fall = 0.02 + 0.98 * math.cos(min(1.0, index / c.total_steps) * math.pi / 2)
        decay = min(c.ema, (1 + index) / (10 + index))
        rates = c.learning_rate * rise * fall, c.discriminator_learning_rate * fall
        numbers = jnp.asarray([*rates, decay], jnp.float32)
        key = jax.random.fold_in(jax.random.key(c.seed), index)
        batch = self._sample(c.batch, index)
        playing = bool(self._net) and index >= c.reconstruction_steps
        self.state, logs = self._step(self.state, batch, self._net, numbers, key, playing=playing)
        self.step_index += 1
        return logs

    def _traced_step(
        self,
        state: State,
        batch: Any,
        net: Any,
        numbers: jax.Array,
        key: jax.Array,
        *,
        playing: bool,
    ) -> tuple[State, dict[str, jax.Array]]:
        keys = jax.random.split(key, 3)
        corner = draw_corner(keys[0])
        other_side = self._build_judge(state["discriminator"]) if playing else None
        gradient, (logs, fake) = jax.grad(self._loss, has_aux=True)(
            state["generator"], batch, net, corner, other_side, keys[1]
        )
        out = dict(state)
        self._move(out, "generator", gradient, numbers[0])
        out["average"] = jax.tree.map(
            lambda a, b: a * numbers[2] + b * (1 - numbers[2]), state["average"], out["generator"]
        )
        if playing:

            def loss(params: Any) -> Any:
                return discriminator_loss(
                    self._build_judge(params), net, *fake,
                    drift_weight=self.config.drift_weight, key=keys[2],
                )  # fmt: skip

            gradient, more = jax.grad(loss, has_aux=True)(state["discriminator"])
            self._move(out, "discriminator", gradient, numbers[1])
            logs |= more
        return out, logs

    def _move(self, state: State, name: str, gradient: Any, rate: jax.Array) -> None:
        update, state[f"opt_{name}"] = self._adam[name].update(gradient, state[f"opt_{name}"])
        state[name] = jax.tree.map(lambda w, u: w - rate * u, state[name], update)

    def _loss(
        self, params: Any, batch: Any, net: Any, corner: Any, other_side: Any, key: jax.Array
    ) -> Any:
        values, latents, wanted = batch
        wanted = wanted.astype(jnp.float32) / 255
        paint = partial(self._build(params).paint_linear, rounds=self.config.quantize_aware)
        painted = jax.vmap(paint)(values, latents)
        distance = jnp.sqrt(jnp.square(painted - wanted) + _SMOOTH**2).mean() - _SMOOTH
        loss = pixels = _PIXEL_WEIGHT * distance
        logs, looked_at = {"pixels": pixels}, ()
        if net:
            count = -(-len(values) // _LOOKED_AT)
            fake, real = (part(x[:count], corner) for x in (through(painted), wanted))
            looks = [features(net, x[..., ::-1] * 2 - 1) for x in (fake, real)]
            likeness = feature_distance(*looks)
            loss = loss + self.config.feature_weight * likeness
            logs["likeness"] = likeness
            looked_at = real, fake, given(values[:count], corner)
            if other_side is not None:
                score = judge(other_side, net, fake, looked_at[2], key=key).mean()
                loss = loss - self.config.adversarial_weight * score
                logs["game"] = -score
        return loss, (logs, jax.lax.stop_gradient(looked_at))


def held_out(pack: ScenePack, *, count: int = 24, seed: int = 0) -> Any:
    """Codes of pictures kept from training at each strength, latents, and the pictures."""
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(pack.is_held_out)
    rows = rows[:: max(len(rows) // count, 1)][:count]
    pictures = [painted_size(pack.bgr[r]) for r in rows]
    values = {s: np.stack([encode(p, s, random=random) for p in pictures]) for s in CHOICES}
    latents = random.standard_normal((len(rows), NOISE_SIZE)).astype(np.float32)
    return values, latents, np.stack(pictures)


@nnx.jit
def _paint(painter: Any, values: Any, latents: Any) -> jax.Array:
    return jax.vmap(painter.paint_linear)(values, latents)


def held_out_psnr_db(trainer: PainterTrainer) -> dict[str, float]:
    """PSNR of each strength on pictures that were kept from training."""
    values, latents, pictures = held_out(trainer.pack)
    painter = trainer.averaged_generator()
    out = {}
    for strength, codes in values.items():
        painted = np.clip(np.asarray(_paint(painter, codes, latents)), 0, 1)
        error = np.mean(np.square(painted - pictures / np.float32(255)))
        out[f"psnr_db_{strength.value}"] = float(-10 * np.log10(error))
    return out


def sample_sheet(trainer: PainterTrainer, path: Path) -> None:
    """Held-out pictures above what is painted of them, strictest last."""
    values, latents, pictures = held_out(trainer.pack, count=6, seed=1)
    painter = trainer.averaged_generator()
    strips = [pictures / 255]
    for strength in CHOICES[::-1]:
        strips.append(np.clip(np.asarray(_paint(painter, values[strength], latents)), 0, 1))
    sheet = np.vstack([np.hstack(list(x)) for x in strips])
    partial_path = path.with_name("partial_" + path.name)
    cv2.imwrite(str(partial_path), np.round(sheet * 255).astype(np.uint8))
    partial_path.replace(path)


def train(
    config_path: Path, *, resume: bool = False, run_dir: Path, max_minutes: float | None = None
) -> dict[str, Any]:
    """Trains until the last step or the time is up; checkpoints, sheet and plot go to run_dir."""
    config = load_painter_config(config_path)
    trainer = PainterTrainer(config, ScenePack.load(Path(config.pack)))
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
            if not all(math.isfinite(value) for value in numbers.values()):
                raise FloatingPointError(f"step {done}: a loss is not finite; lower the rate")
            if done % config.checkpoint_every == 0:
                numbers |= held_out_psnr_db(trainer)
            history.add(done, numbers | {"steps_per_s": rate})
        if done % config.checkpoint_every == 0:
            _keep(trainer, run_dir, meta, history)
    meta["held_out"] = held_out_psnr_db(trainer)
    _keep(trainer, run_dir, meta, history)
    return {"steps": trainer.step_index, **meta["held_out"]}


def _keep(
    trainer: PainterTrainer, run_dir: Path, meta: dict[str, Any], history: report.History
) -> None:
    checkpoint.save(trainer, run_dir, meta)
    sample_sheet(trainer, run_dir / "sheet.png")
    history.plot(run_dir / "loss.png")
