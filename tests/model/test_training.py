"""A run learns, is resumed where it stopped, and refuses what does not fit."""

import dataclasses
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.errors import ConfigError, InputError
from veilcam.camera.head_model import EXPRESSION_FIELDS, reference_mesh
from veilcam.model import checkpoint
from veilcam.model.config import TrainConfig, load_config
from veilcam.model.data import SIMULATED, Pack, sample
from veilcam.model.feature_net import FEATURE_NAMES, features, load_features
from veilcam.model.head_basis import GROUPS, POINTS, fit_basis
from veilcam.model.head_points import mirror_index, mirror_values, project
from veilcam.model.prepare import Picture, write_pack
from veilcam.model.train import Trainer
from veilcam.model.warp import warp


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
def config(narrow_features: Path) -> TrainConfig:
    return TrainConfig(
        pack="tiny.npz",
        features=str(narrow_features),
        batch_portraits=2,
        batch_simulated=1,
        reconstruction_steps=6,
        total_steps=8,
        quantize_aware=False,
    )


def test_pack_comes_back_as_it_was_written(pack: Pack) -> None:
    assert pack.bgra.shape == (24, 128, 128, 4)
    assert pack.points_xy.shape == (24, len(POINTS), 2)
    assert np.ptp(pack.bgra[0, 60:70, 60:70, 0]) < 12
    assert (pack.bgra[:, 66, 64, 3] > 200).all()


def test_a_missing_pack_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"veilcam\.model\.prepare"):
        Pack.load(tmp_path / "none.npz")


def test_mirrored_portraits_get_people_of_their_own(pack: Pack) -> None:
    both = pack.with_mirrored()
    num_portraits = int((pack.domain != SIMULATED).sum())
    assert len(both.bgra) == 24 + num_portraits
    assert len(both.people) == len(pack.people) + num_portraits
    assert set(both.person[24:].tolist()).isdisjoint(pack.person.tolist())
    mirror = mirror_index(pack.basis)
    assert (mirror[mirror] == np.arange(len(mirror))).mean() > 0.9  # the tiny pack's head is noisy
    yaw = both.values[24:, 0] + pack.values[pack.domain != SIMULATED, 0]
    np.testing.assert_allclose(yaw, 0, atol=1e-5)


def test_mirrored_values_mirror_the_landmarks(pack: Pack) -> None:
    basis = {name: jnp.asarray(value) for name, value in pack.basis.items()}
    values = pack.values[:1].copy()
    values[0, 0] = 25
    shape = jnp.zeros(pack.shape.shape[1])
    there = np.asarray(project(basis, jnp.asarray(values[0]), shape))
    back = np.asarray(project(basis, jnp.asarray(mirror_values(values)[0]), shape))
    left, right = there[:, 0].min(), back[:, 0].max()
    assert left - 0.5 == pytest.approx(0.5 - right, abs=0.02)


@pytest.fixture(scope="module")
def basis(pack: Pack) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in pack.basis.items()}


def _warp(
    basis: dict[str, jax.Array],
    bgra: np.ndarray,
    pack: Pack,
    row: int,
    before: np.ndarray,
    after: np.ndarray,
) -> jax.Array:
    arrays = (bgra, pack.points_xy[row], pack.shape[row], before, after)
    return warp(basis, *(jnp.asarray(array) for array in arrays))


def test_a_warp_to_the_same_code_changes_nothing(pack: Pack, basis: dict[str, jax.Array]) -> None:
    random = np.random.default_rng(1)
    bgra = cv2.GaussianBlur(random.random((128, 128, 4)).astype(np.float32), (0, 0), 3)
    values = pack.values[0].copy()
    values[2] = 0.0  # a shut mouth is not darkened
    same = _warp(basis, bgra, pack, 0, values, values)
    assert np.abs(np.asarray(same) - bgra).max() < 1e-3


def test_a_warp_moves_points_as_the_head_model_says(
    pack: Pack, basis: dict[str, jax.Array]
) -> None:
    before, after = pack.values[1].copy(), pack.values[1].copy()
    after[0] += 15
    nose = int(np.flatnonzero(GROUPS["nose"][5] == POINTS)[0])
    shape = jnp.asarray(pack.shape[1])
    moved = project(basis, jnp.asarray(after), shape) - project(basis, jnp.asarray(before), shape)
    moved_px = float(moved[nose, 0]) * 128
    assert moved_px > 2
    bgra = np.zeros((128, 128, 4), np.float32)
    spot = pack.points_xy[1][nose]
    cv2.circle(bgra, np.round(spot).astype(int).tolist(), 3, (1, 1, 1, 1), -1)
    out = np.asarray(_warp(basis, bgra, pack, 1, before, after))
    center = np.average(np.indices((128, 128))[1], weights=out[..., 0])
    assert center - spot[0] == pytest.approx(moved_px, abs=1.5)


def test_a_batch_holds_portraits_first_and_turns_them(
    pack: Pack, basis: dict[str, jax.Array]
) -> None:
    arrays = pack.with_mirrored().arrays()
    batch = sample(arrays, basis, 6, 2, key=jax.random.key(0))
    assert batch["image"].shape == (8, 128, 128, 4)
    image = np.asarray(batch["image"])
    assert image.min() >= 0
    assert image.max() <= 1 + 1e-5
    known = np.asarray(arrays["values"])[:, 0]
    yaw = np.asarray(batch["values"])[:, 0]
    is_known = np.array([np.abs(known - value).min() < 1e-6 for value in yaw])
    assert is_known[6:].all()
    assert not is_known[:6].all()


def test_feature_maps_halve_and_see_the_picture(narrow_features: Path) -> None:
    weights = load_features(narrow_features)
    pictures = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3), minval=-1)
    taps = features(weights, pictures)
    assert [tap.shape for tap in taps] == [(2, n, n, 4) for n in (16, 8, 4, 2)]
    assert all(float(jnp.abs(tap[0] - tap[1]).max()) > 0 for tap in taps)
    assert set(FEATURE_NAMES) <= set(weights)


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
    losses = [float(trainer.step()["pixels"]) for _ in range(6)]
    assert losses[-1] < losses[0]
    checkpoint.save(trainer, tmp_path, {"config": dataclasses.asdict(config)})

    again = Trainer(config, pack)
    checkpoint.restore(again, tmp_path)
    assert again.step_index == trainer.step_index == 6
    for saved, restored in zip(
        jax.tree.leaves(trainer.state), jax.tree.leaves(again.state), strict=True
    ):
        np.testing.assert_array_equal(saved, restored)

    generator, meta, latents = checkpoint.load_generator(tmp_path)
    assert meta["step"] == 6
    values, latent = jnp.asarray(pack.values[0]), jnp.asarray(latents["mean"])
    picture = np.asarray(generator.paint(values, latent))
    assert picture.shape == (128, 128, 4)
    np.testing.assert_allclose(
        picture,
        trainer.averaged_generator().paint(values, latent),
        atol=1e-5,
    )

    checkpoint.compact(tmp_path, tmp_path / "compact")
    checkpoint.restore(again, tmp_path / "compact")
    kernel = trainer.state["average"]["to_patch"]["kernel"]
    np.testing.assert_allclose(kernel, again.state["generator"]["to_patch"]["kernel"], atol=1e-3)


@pytest.mark.slow  # compiling both sides takes minutes on two cores
def test_the_game_begins(pack: Pack, config: TrainConfig) -> None:
    trainer = Trainer(dataclasses.replace(config, reconstruction_steps=1), pack)
    trainer.step()
    logs = trainer.step()
    assert np.isfinite([float(value) for value in logs.values()]).all()
    assert {"game", "real_score", "fake_score"} <= set(logs)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("pack = 'a'\nfeatures = 'b'\ncompute_dtype = 'int8'", "must be float32 or bfloat16"),
        ("pack = 'a'", "'features' is missing"),
        ("pack = 'a'\nsteps = 3", "unknown key 'steps'"),
        ("pack = 3", "must be of type str"),
        ("pack = 'a'\nfeatures = 'b'\nema = -1.0", "ema=-1.0 must be > 0"),
        ("seed = 1", "'pack' is missing"),
        ("pack = ", "cannot be read as TOML"),
    ],
)
def test_a_bad_config_is_refused(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config(path)
