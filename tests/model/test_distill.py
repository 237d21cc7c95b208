"""Rounding for int8 moves weights by half a step at most and keeps their slope."""

import jax
import jax.numpy as jnp
import numpy as np

from veilcam.model.distill import draw, round_kernels, visible
from veilcam.model.generator import CEILING, bound


def test_kernels_lie_on_the_steps_of_their_channel() -> None:
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 5, 4)) * jnp.array([0.1, 1, 10, 100])
    bias = jnp.ones(4) * 0.123
    rounded = round_kernels({"kernel": kernel, "bias": bias})
    step = np.abs(np.asarray(kernel)).max((0, 1, 2)) / 127
    levels = np.asarray(rounded["kernel"]) / step
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-2)
    assert (np.abs(np.asarray(rounded["kernel"] - kernel)) <= step * 0.501).all()
    np.testing.assert_array_equal(rounded["bias"], bias)
    slope = jax.grad(lambda k: round_kernels({"kernel": k})["kernel"].sum())(kernel)
    np.testing.assert_array_equal(slope, 1.0)


def test_bounded_maps_have_256_values() -> None:
    x = jnp.linspace(-2.0, 9.0, 5000)
    seen = np.unique(np.asarray(bound(x, 0.0, CEILING, True)).round(5))
    assert seen[0] == 0
    assert seen[-1] == np.float32(CEILING)
    assert len(seen) == 256
    np.testing.assert_array_equal(bound(x, 0.0, CEILING, False), jnp.clip(x, 0, CEILING))


def test_colour_under_no_alpha_does_not_count() -> None:
    patch = jnp.zeros((2, 2, 4)).at[..., :3].set(0.7)
    assert float(jnp.abs(visible(patch)).max()) == 0


def test_codes_stay_in_their_ranges() -> None:
    from veilcam.camera.code import HEAD_FIELDS

    values, latent = draw(jnp.zeros(6), jnp.eye(6), 64, key=jax.random.key(1))
    assert latent.shape == (64, 6)
    for index, field in enumerate(HEAD_FIELDS):
        assert float(values[:, index].min()) >= field.low
        assert float(values[:, index].max()) <= field.high
