"""Gets a trained generator used to 8-bit maps and weights, with its own pictures as the lesson.

Two faults are mended on the way: lids follow the code, since the lesson's are shut by a warp of the
open-eyed picture, and the matte falls to zero before the patch ends.
Cheap: neither pictures nor a discriminator are needed, half an hour on two cores.
Command: python -m veilcam.model.distill RUN -o RUN2
Source: Jacob et al. 2018, Quantization and training of neural networks, section 3.
"""

import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from veilcam.camera.code import HEAD_FIELDS
from veilcam.model import checkpoint
from veilcam.model.generator import NOISE_SIZE, PATCH_PX, HeadGenerator
from veilcam.model.head_basis import POINTS
from veilcam.model.head_points import project
from veilcam.model.warp import warp

_LOW = np.array([field.low for field in HEAD_FIELDS], np.float32)
_HIGH = np.array([field.high for field in HEAD_FIELDS], np.float32)
_TRUNCATION = 0.9
_LIDS = np.array([field.name.startswith("eyelid") for field in HEAD_FIELDS])
_OPEN_LID = 0.135  # median lid distance of portraits, eye distances
_EDGE_PX = 3
_LID_MAPS = slice(3, 7)
_LID_WEIGHT = 3.0


def draw(
    mean: Float[Array, " z"], chol: Float[Array, "z z"], count: int, *, key: PRNGKeyArray
) -> tuple[Float[Array, "n f"], Float[Array, "n z"]]:
    """Codes from all over their ranges, half of them near the middle, and latents."""
    keys = jax.random.split(key, 3)
    wide = jax.random.uniform(keys[0], (count, len(_LOW)))
    near = jax.random.beta(keys[1], 4.0, 4.0, (count, len(_LOW)))
    unit = jnp.where(jnp.arange(count)[:, None] % 2 == 0, wide, near)
    noise = jax.random.normal(keys[2], (count, len(mean)))
    return _LOW + unit * (_HIGH - _LOW), mean + _TRUNCATION * noise @ chol.T


def lesson(
    teacher: HeadGenerator, values: Float[Array, " f"], latent: Float[Array, " z"]
) -> tuple[Float[Array, "128 128 4"], Float[Array, "128 128 1"]]:
    """What the teacher paints with open eyes, its lids moved by a warp; and where lids are."""
    basis = {name: value[...] for name, value in teacher.basis.items()}
    shape = latent[NOISE_SIZE:]
    awake = jnp.where(_LIDS, _OPEN_LID, values)
    picture = teacher.paint(awake, latent)
    points = project(basis, awake, shape)[: len(POINTS)] * PATCH_PX
    picture = warp(basis, picture, points, shape, awake, values)
    inside = jnp.minimum(jnp.arange(PATCH_PX), jnp.arange(PATCH_PX)[::-1])
    window = jnp.clip(inside / _EDGE_PX, 0, 1)
    alpha = picture[..., 3:] * (window[:, None] * window[None])[..., None]
    lids = teacher.maps(teacher.landmarks(values, shape), 64)[..., _LID_MAPS].sum(-1)
    weight = jnp.repeat(jnp.repeat(jnp.clip(lids, 0, 1), 2, axis=0), 2, axis=1)[..., None]
    return jnp.concatenate([picture[..., :3], alpha], axis=-1), weight


def visible(patch: Float[Array, "*b h w 4"]) -> Float[Array, "*b h w 4"]:
    """Colour as far as it shows, and alpha; a little beyond [0, 1], where there is still slope."""
    patch = jnp.clip(patch, -0.1, 1.1)
    return jnp.concatenate([patch[..., :3] * patch[..., 3:], patch[..., 3:]], axis=-1)


def round_kernels(params: Any) -> Any:
    """Convolution kernels on the 255 steps of each output channel's int8 range, slope one."""

    def one(kernel: jax.Array) -> jax.Array:
        if kernel.ndim != 4:
            return kernel
        step = jnp.abs(kernel).max((0, 1, 2), keepdims=True) / 127 + 1e-12
        return kernel + jax.lax.stop_gradient(jnp.round(kernel / step) * step - kernel)

    return jax.tree.map(one, params)


def distill(
    generator: HeadGenerator,
    latents: dict[str, np.ndarray],
    *,
    num_steps: int,
    batch_size: int = 6,
    learning_rate: float = 2e-4,
    seed: int = 0,
) -> HeadGenerator:
    """A generator whose rounded pictures are what `generator` paints without rounding."""
    graph, params, rest = nnx.split(generator, nnx.Param, ...)
    mean, chol = jnp.asarray(latents["mean"]), jnp.asarray(latents["chol"])
    adam = optax.scale_by_adam(b1=0.9, b2=0.99)

    def loss(student: Any, values: jax.Array, latent: jax.Array) -> jax.Array:
        taught = nnx.merge(graph, round_kernels(student), rest)
        teacher = nnx.merge(graph, params, rest)
        wanted, lids = jax.vmap(partial(lesson, teacher))(values, latent)
        seen = jax.vmap(partial(taught.paint_linear, rounds=True))(values, latent)
        error = jnp.square(visible(seen) - visible(wanted))
        return error.mean() + _LID_WEIGHT * (error * lids).mean()

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(
        student: Any, average: Any, state: Any, key: PRNGKeyArray, rate: jax.Array
    ) -> tuple[Any, Any, Any, jax.Array]:
        values, latent = draw(mean, chol, batch_size, key=key)
        value, gradient = jax.value_and_grad(loss)(student, values, latent)
        update, state = adam.update(gradient, state)
        student = jax.tree.map(lambda w, u: w - rate * u, student, update)
        average = jax.tree.map(lambda a, b: 0.98 * a + 0.02 * b, average, student)
        return student, average, state, value

    student, average = (jax.tree.map(jnp.copy, params) for _ in range(2))
    state = adam.init(student)
    seen: list[float] = []
    for index in range(num_steps):
        rate = learning_rate * (0.02 + 0.98 * math.cos(index / num_steps * math.pi / 2))
        key = jax.random.fold_in(jax.random.key(seed), index)
        student, average, state, value = step(student, average, state, key, jnp.float32(rate))
        seen.append(float(value))
        if (index + 1) % 50 == 0:
            error_db = 10 * math.log10(np.mean(seen[-50:]))
            sys.stderr.write(f"\r\033[Kstep {index + 1} of {num_steps}  error {error_db:.1f} dB")
            sys.stderr.flush()
    out: HeadGenerator = nnx.merge(graph, average, rest)
    return out


@click.command()
@click.argument("run_dir", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=2000, show_default=True, help="Steps of six heads.")
@click.option("--seed", default=0, show_default=True)
def main(run_dir: Path, out: Path, steps: int, seed: int) -> None:
    """Write RUN_DIR's state with a generator used to int8 to the folder OUT, to export from."""
    generator, meta, latents = checkpoint.load_generator(run_dir)
    taught = distill(generator, latents, num_steps=steps, seed=seed)
    meta = meta | {"distilled": {"steps": steps, "seed": seed}}
    checkpoint.save_average(taught, run_dir, out, meta)


if __name__ == "__main__":
    main()
