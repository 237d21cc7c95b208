"""Rounding for int8 keeps a map's ends and leaves 256 values, with slope one."""

import jax
import jax.numpy as jnp
import numpy as np

from veilcam.model.generator import CEILING, bound


def test_bounded_maps_have_256_values() -> None:
    x = jnp.linspace(-2.0, 9.0, 5000)
    seen = np.unique(np.asarray(bound(x, 0.0, CEILING, True)).round(5))
    assert seen[0] == 0
    assert seen[-1] == np.float32(CEILING)
    assert len(seen) == 256
    np.testing.assert_array_equal(bound(x, 0.0, CEILING, False), jnp.clip(x, 0, CEILING))


def test_rounding_keeps_the_slope() -> None:
    slope = jax.grad(lambda x: bound(x, -1.0, CEILING, True).sum())(jnp.linspace(-0.9, 5.9, 100))
    np.testing.assert_allclose(slope, 1.0, atol=1e-6)
