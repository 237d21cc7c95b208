"""A wavelet scattering transform: picture features that no data made.

Source: Bruna and Mallat 2013; Tramer and Boneh 2021 for differentially private linear models on
them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SIDE, _SCALES, _ANGLES = 32, 2, 8
_GROUPS = [(0, 1), (1, 9), (9, 17)] + [(17 + 8 * k, 25 + 8 * k) for k in range(8)]


def _bump(sigma: float, angle: float, frequency: float, slant: float) -> np.ndarray:
    """Fourier transform of a rotated Gaussian around a frequency, periodized."""
    wave = np.fft.fftfreq(_SIDE) * 2 * np.pi
    along_y, along_x = np.meshgrid(wave, wave, indexing="ij")
    out = np.zeros((_SIDE, _SIDE))
    for turn_y, turn_x in np.ndindex(3, 3):
        x, y = along_x + 2 * np.pi * (turn_x - 1), along_y + 2 * np.pi * (turn_y - 1)
        p = x * np.cos(angle) + y * np.sin(angle) - frequency
        q = y * np.cos(angle) - x * np.sin(angle)
        out += np.exp(-0.5 * sigma**2 * (p**2 + (q / slant) ** 2))
    return out


def _wavelets() -> np.ndarray:
    """Morlet wavelets (2, 8, 32, 32) without a mean, in Fourier space."""
    made = []
    for scale, turn in np.ndindex(_SCALES, _ANGLES):
        sigma, angle = 0.8 * 2**scale, np.pi * turn / _ANGLES
        wave = _bump(sigma, angle, 0.75 * np.pi / 2**scale, 4 / _ANGLES)
        base = _bump(sigma, angle, 0.0, 4 / _ANGLES)
        made.append(wave - base * wave[0, 0] / base[0, 0])
    return np.stack(made).reshape(_SCALES, _ANGLES, _SIDE, _SIDE).astype(np.float32)


_WAVELETS = _wavelets()
_LOW = (_bump(0.8 * 2**_SCALES, 0.0, 0.0, 1.0)).astype(np.float32)
_LOW = _LOW / _LOW[0, 0]


@jax.jit
def scatter(image: jax.Array) -> jax.Array:
    """(b, 28, 28) in [0, 1] -> (b, 3969), of norm 1: 81 channels of 7x7, each group whitened."""
    spectrum = jnp.fft.fft2(jnp.pad(image, ((0, 0), (2, 2), (2, 2))))

    def low(spectrum: Any) -> jax.Array:
        return jnp.real(jnp.fft.ifft2(spectrum * _LOW))[..., 2:30:4, 2:30:4]

    first = jnp.abs(jnp.fft.ifft2(spectrum[:, None, None] * _WAVELETS))
    again = jnp.fft.fft2(first)
    second = jnp.abs(jnp.fft.ifft2(again[:, 0, :, None] * _WAVELETS[1]))
    channels = jnp.concatenate(
        [
            low(spectrum)[:, None],
            low(again).reshape(len(image), -1, 7, 7),
            low(jnp.fft.fft2(second)).reshape(len(image), -1, 7, 7),
        ],
        axis=1,
    )
    groups = []
    for begin, end in _GROUPS:
        part = channels[:, begin:end]
        part = part - part.mean((1, 2, 3), keepdims=True)
        scale = jnp.sqrt(jnp.square(part).mean((1, 2, 3), keepdims=True) + 1e-4)
        groups.append((part / scale).reshape(len(image), -1))
    flat = jnp.concatenate(groups, axis=1)
    return flat / jnp.linalg.norm(flat, axis=1, keepdims=True)


class Features:
    """Scattering, whitened by its covariance over samples: what is released costs no more.

    Args:
        samples: uint8 (n, 28, 28) from the DP generator.
        see: What pictures go through before.
        size: Principal axes that are kept.
    """

    def __init__(self, samples: np.ndarray, see: Any, *, size: int = 300) -> None:
        self._see = see
        made = _chunks(see(samples))
        self._mean = made.mean(0)
        values, vectors = np.linalg.eigh(np.cov(made.T))
        kept = np.argsort(-values)[:size]
        # full whitening would lift directions in which samples hardly vary, and pictures may
        scale = np.sqrt(values[kept] + 0.003 * values.max())
        self._basis = (vectors[:, kept] / scale).astype(np.float32)
        self.size = size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (b, 28, 28) -> (b, size) of norm 1."""
        white = (_chunks(self._see(images)) - self._mean) @ self._basis
        return white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-6)


def _chunks(images: np.ndarray, chunk: int = 250) -> np.ndarray:
    return np.concatenate(
        [
            np.asarray(scatter(jnp.asarray(images[s : s + chunk], jnp.float32) / 255))
            for s in range(0, len(images), chunk)
        ]
    )
