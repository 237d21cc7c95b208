"""A run learns, is resumed where it stopped, and refuses what does not fit."""

import dataclasses
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.errors import ConfigError, InputError
from veilcam.camera.head_model import EXPRESSION_FIELDS, reference_mesh
from veilcam.model import checkpoint
from veilcam.model.config import TrainConfig, load_config
from veilcam.model.data import Pack, Sampler
from veilcam.model.head_basis import GROUPS, POINTS, fit_basis
from veilcam.model.prepare import Picture, write_pack
from veilcam.model.train import Trainer
from veilcam.model.warp import Warper


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Twenty-four flat heads of different colour, with the average mesh."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(24):
        patch = np.zeros((128, 128, 4), np.uint8)
        patch[..., :3] = random.integers(40, 220, 3)
        patch[..., 3] = cv2.circle(np.zeros((128, 128), np.uint8), (64, 66), 40, 255, -1)
        shift = random.normal(0, 0.02, (468, 3))
        mesh = (reference_mesh() + shift) / 4.4 * 128 + (64, 71.7, 0)
        values = {f.name: (f.low + f.high) / 2 + random.normal(0, f.step) for f in HEAD_FIELDS}
        name = f"synthetic/{index}"
        domain = 2 if index % 3 == 0 else 1
        rows.append(
            (
                Picture(name=name, domain=domain, person=name, bgra=patch),
                patch,
                mesh.astype(np.float32),
                values,
            )
        )
    path = tmp_path_factory.mktemp("pack") / "tiny.npz"
    write_pack(rows, path)
    return Pack.load(path)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig(
        pack="tiny.npz",
        batch_portraits=2,
        batch_simulated=1,
        batch_adversarial=2,
        reconstruction_steps=4,
    )


def test_pack_comes_back_as_it_was_written(pack: Pack) -> None:
    assert pack.bgra.shape == (24, 128, 128, 4)
    assert pack.points_xy.shape == (24, len(POINTS), 2)
    assert np.ptp(pack.bgra[0, 60:70, 60:70, 0]) < 12
    assert (pack.bgra[:, 66, 64, 3] > 200).all()


def test_a_missing_pack_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"veilcam\.model\.prepare"):
        Pack.load(tmp_path / "none.npz")


def test_a_warp_to_the_same_code_changes_nothing(pack: Pack) -> None:
    warper = Warper(pack.basis, len(POINTS))
    random = np.random.default_rng(1)
    bgra = cv2.GaussianBlur(random.integers(0, 255, (128, 128, 4)).astype(np.uint8), (0, 0), 3)
    same = warper(bgra, pack.points_xy[0], pack.shape[0], pack.values[0], pack.values[0])
    assert np.abs(same.astype(int) - bgra.astype(int)).max() <= 1


def test_a_warp_moves_points_as_the_head_model_says(pack: Pack) -> None:
    warper = Warper(pack.basis, len(POINTS))
    after = pack.values[1].copy()
    after[0] += 15
    nose = int(np.flatnonzero(GROUPS["nose"][5] == POINTS)[0])
    moved = warper.project(after, pack.shape[1]) - warper.project(pack.values[1], pack.shape[1])
    assert moved[nose, 0] > 2
    bgra = np.zeros((128, 128, 4), np.uint8)
    spot = pack.points_xy[1][nose]
    cv2.circle(bgra, np.round(spot).astype(int).tolist(), 3, (255, 255, 255, 255), -1)
    out = warper(bgra, pack.points_xy[1], pack.shape[1], pack.values[1], after)
    center = np.average(np.indices((128, 128))[1], weights=out[..., 0].astype(float))
    assert center - spot[0] == pytest.approx(float(moved[nose, 0]), abs=1.5)


def test_expression_directions_explain_the_points_that_follow_them() -> None:
    random = np.random.default_rng(2)
    count = len(EXPRESSION_FIELDS)
    expression = random.normal(0, 0.05, (200, count)).astype(np.float32)
    canonical = np.repeat(reference_mesh()[None], 200, 0)
    canonical[:, 17, 1] += expression[:, 0]
    values = np.concatenate([np.zeros((200, 2)), expression, np.zeros((200, 2))], 1)
    basis, shape = fit_basis(
        canonical, expression, values.astype(np.float32), np.ones(200, np.float32)
    )
    lip = int(np.flatnonzero(POINTS == 17)[0])
    assert basis["expression"][0, lip, 1] == pytest.approx(1.0, abs=0.05)
    assert np.isfinite(shape).all()


def test_a_run_learns_and_resumes(pack: Pack, config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, pack)
    sampler, random = Sampler(pack, seed=0), np.random.default_rng(0)
    batch = sampler.batch(2, 1)
    losses = [float(trainer.step(batch, random)["reconstruction"]) for _ in range(4)]
    assert losses[-1] < losses[0]
    logs = trainer.step(batch, random)  # the game has begun
    assert np.isfinite([float(value) for value in logs.values()]).all()
    assert "game" in logs
    checkpoint.save(trainer, tmp_path, {"config": dataclasses.asdict(config)})

    again = Trainer(config, pack)
    checkpoint.restore(again, tmp_path)
    assert again.step_index == trainer.step_index == 5
    kernel = trainer.generator.to_patch.kernel[...]
    np.testing.assert_array_equal(kernel, again.generator.to_patch.kernel[...])
    np.testing.assert_array_equal(trainer.latents.table[...], again.latents.table[...])

    generator, meta, latents = checkpoint.load_generator(tmp_path)
    assert meta["step"] == 5
    values, latent = jnp.asarray(batch["values"][0]), jnp.asarray(latents["mean"])
    picture = np.asarray(generator.paint(values, latent))
    assert picture.shape == (128, 128, 4)
    np.testing.assert_allclose(
        picture,
        trainer.averaged_generator().paint(values, latent),
        atol=1e-5,
    )

    checkpoint.compact(tmp_path, tmp_path / "compact")
    checkpoint.restore(again, tmp_path / "compact")
    np.testing.assert_allclose(kernel, again.generator.to_patch.kernel[...], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("pack = 'a'\nsteps = 3", "unknown key 'steps'"),
        ("pack = 3", "must be of type str"),
        ("pack = 'a'\nema = -1.0", "ema=-1.0 must be > 0"),
        ("seed = 1", "'pack' is missing"),
        ("pack = ", "cannot be read as TOML"),
    ],
)
def test_a_bad_config_is_refused(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config(path)
