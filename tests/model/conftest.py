"""A feature net small enough for tests."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def narrow_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature net of the right shape, four channels wide, with random weights."""
    random = np.random.default_rng(3)
    stages = ((3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1))
    arrays = {"stem_w": random.normal(0, 0.3, (3, 3, 3, 4)), "stem_b": np.zeros(4)}
    kernels = [kernel for kernel, _, repeats in stages for _ in range(repeats)]
    for block, kernel in enumerate(kernels):
        shapes = {"expand": (1, 1, 4, 6), "depth": (kernel, kernel, 6), "project": (1, 1, 6, 4)}
        if block == 0:
            del shapes["expand"]
            shapes |= {"depth": (kernel, kernel, 4), "project": (1, 1, 4, 4)}
        for part, shape in shapes.items():
            arrays[f"b{block}_{part}_w"] = random.normal(0, 0.5, shape)
            arrays[f"b{block}_{part}_b"] = np.zeros(shape[-1])
    path = tmp_path_factory.mktemp("features") / "narrow.npz"
    np.savez(path, **{name: value.astype(np.float16) for name, value in arrays.items()})
    return path
