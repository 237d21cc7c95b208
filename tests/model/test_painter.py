"""The painter learns, its game has two sides, and it goes on from a compact state."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from veilcam.camera.errors import ConfigError
from veilcam.camera.painting import (
    COARSE_HW,
    FINE_HW,
    NOISE_SIZE,
    NUM_FINE,
    NUM_VALUES,
    PATCH_HW,
    maps_of,
)
from veilcam.camera.strength import Strength
from veilcam.model import checkpoint
from veilcam.model.feature_net import load_features
from veilcam.model.painter import Painter, _clip
from veilcam.model.painter_config import PainterConfig
from veilcam.model.painter_data import ScenePack
from veilcam.model.painter_game import LOOK_PX, discriminator_loss, given, new_discriminator
from veilcam.model.painter_train import PainterTrainer


@pytest.fixture(scope="module")
def pack() -> ScenePack:
    """Eight flat scenes, dark below."""
    random = np.random.default_rng(0)
    bgr = np.empty((8, 228, 405, 3), np.uint8)
    for scene in bgr:
        scene[:114], scene[114:] = random.integers(100, 250, 3), random.integers(0, 100, 3)
    return ScenePack(bgr=bgr, is_held_out=np.arange(8) > 5, manifest={})


@pytest.fixture(scope="module")
def config(narrow_features: Path) -> PainterConfig:
    return PainterConfig(
        pack="-", features=str(narrow_features), batch=2, total_steps=4, reconstruction_steps=2
    )


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """The vector of coloured cells without persons."""
    cells = np.random.default_rng(2).uniform(0.1, 0.9, (9, 16, 3)).astype(np.float32)
    return maps_of(cells, np.zeros((9, 16), np.float32), Strength.BALANCED)


def test_a_fresh_painter_copies_the_colours_that_it_is_given(values: np.ndarray) -> None:
    painted = Painter(rngs=nnx.Rngs(0)).paint(jnp.asarray(values), jnp.ones(NOISE_SIZE))
    fine = values[COARSE_HW[0] * COARSE_HW[1] * 5 :].reshape(*FINE_HW, NUM_FINE)[..., :3]
    wanted = fine.repeat(8, axis=0).repeat(8, axis=1)
    assert painted.shape == (*PATCH_HW, 4)
    np.testing.assert_allclose(np.asarray(painted[..., :3]), wanted, atol=1e-5)
    assert float(painted[..., 3].min()) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_no_map_of_a_fresh_painter_is_dead(values: np.ndarray, seed: int) -> None:
    shares: list[np.ndarray] = []

    def watched(x: jax.Array) -> jax.Array:
        out = _clip(x, rounds=False)
        shares.append(np.asarray((out > 0).mean((0, 1))))
        return out

    latent = np.random.default_rng(seed).standard_normal(NOISE_SIZE).astype(np.float32)
    painter = Painter(rngs=nnx.Rngs(seed))
    painter._hidden(jnp.asarray(values), jnp.asarray(latent), watched)
    assert all((share > 0.01).all() for share in shares[2:])  # the first two are what is given


@pytest.mark.parametrize(("x", "value", "slope"), [(-1.0, 0.0, 0.2), (3.0, 3.0, 1.0),
                                                   (7.0, 6.0, 0.2)])  # fmt: skip
def test_a_clipped_map_keeps_a_slope_to_come_back_by(x: float, value: float, slope: float) -> None:
    got, gradient = jax.value_and_grad(lambda v: _clip(v, rounds=False))(jnp.float32(x))
    assert float(got) == pytest.approx(value)
    assert float(gradient) == pytest.approx(slope)


@pytest.mark.slow  # a minute of compiling
def test_the_game_tells_real_parts_from_painted_ones_and_cells_that_are_covered(
    config: PainterConfig,
) -> None:
    net = load_features(Path(config.features))
    judge = new_discriminator(net, seed=0)
    values = np.random.default_rng(1).random((1, NUM_VALUES), np.float32)
    corner = jnp.array([40, 100])
    told = given(jnp.asarray(values), corner)
    assert told.shape == (1, LOOK_PX, LOOK_PX, NUM_FINE)
    real, fake = jnp.full((1, LOOK_PX, LOOK_PX, 3), 0.8), jnp.full((1, LOOK_PX, LOOK_PX, 3), 0.1)
    key = jax.random.key(0)
    first, logs = discriminator_loss(judge, net, real, fake, told, drift_weight=0.0, key=key)
    assert all(np.isfinite(float(v)) for v in (first, *logs.values()))
    assert float(logs["real_score"]) != float(logs["fake_score"])


def test_a_compact_state_has_the_averaged_painter(
    pack: ScenePack, config: PainterConfig, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, features="")
    trainer = PainterTrainer(config, pack)
    trainer.step()
    checkpoint.save(trainer, tmp_path, {})
    checkpoint.compact(tmp_path, tmp_path / "small")
    with np.load(tmp_path / "small" / checkpoint.STATE) as file:
        assert not [name for name in file.files if "opt_" in name]
    other = PainterTrainer(dataclasses.replace(config, seed=9), pack)
    checkpoint.restore(other, tmp_path / "small")
    assert other.step_index == 1
    wanted = jax.tree.leaves(trainer.state["average"])
    for a, b in zip(jax.tree.leaves(other.state["generator"]), wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-3)


def test_without_a_feature_net_there_is_no_game(pack: ScenePack, config: PainterConfig) -> None:
    trainer = PainterTrainer(dataclasses.replace(config, features="", total_steps=4), pack)
    trainer.step_index = 3
    assert set(trainer.step()) == {"pixels"}


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="adversarial_weight=0"):
        PainterConfig(pack="-", adversarial_weight=0.0)
