"""Latents of the face bundle over cameras: exact without noise, bounded, into a bundle."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("Crypto", reason="./scripts/setup federate")

from veilcam.camera.errors import ConfigError, InputError
from veilcam.model import federate_share
from veilcam.model import private_latents as pl
from veilcam.model.federate import Federation, write_federation
from veilcam.model.federate_fleet import LocalFleet
from veilcam.model.federate_latents import LatentsTask, finish, load_task
from veilcam.model.federate_rounds import Conductor
from veilcam.model.ledger import NAME, promise
from veilcam.model.private_data import PrivacyError, PrivateSet

SIZE = 3
SHIFT = np.array([1.0, -0.5, 0.0])
FED = Federation(
    name="latents", num_nodes=6, epsilon=30.0, delta=1e-3, rounds=1, task="latents",
    feature_size=SIZE, min_nodes=2, max_nodes=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> pl.Encoder:
    random = np.random.default_rng(0)
    white = random.standard_normal((600, SIZE))
    x = (white + 0.1 * random.standard_normal(white.shape)).astype(np.float32)
    held = np.arange(600) % 5 == 0
    return pl.fit(x, white, held, x[held][:, ::-1])


def rows_of(index: int, num: int = 30) -> np.ndarray:
    random = np.random.default_rng(index)
    return (random.standard_normal((num, SIZE)) * 0.5 + SHIFT).astype(np.float32)


def sealed(rows: np.ndarray) -> PrivateSet:
    return PrivateSet({"x": rows}, np.arange(len(rows)))


def run(fed: Federation, task: LatentsTask, cameras: list[Any], folder: Path) -> np.ndarray:
    with (
        LocalFleet(fed, task, cameras, folder / "nodes") as fleet,
        Conductor(fed, task, fleet.roster, folder / "state", fleet.exchange) as conductor,
    ):
        assert [report.outcome for report in conductor.run()] == ["applied"]
        return conductor.params


def test_without_noise_moments_are_those_of_the_people_whoever_saw_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: pl.Encoder
) -> None:
    monkeypatch.setattr(federate_share, "noise_share", lambda size, **_: np.zeros(size))
    task = LatentsTask(FED, encoder.mean, 10.0)
    cameras = [sealed(rows_of(index)) for index in range(4)]
    params = run(FED, task, [*cameras, None, None], tmp_path)
    everybody = np.concatenate([rows_of(index) for index in range(4)])
    told = task.moments(params)
    assert task.weight(params) == pytest.approx(4 / 6, abs=1e-4)
    np.testing.assert_allclose(told.mean, everybody.mean(0), atol=1e-3)
    np.testing.assert_allclose(told.covariance, np.cov(everybody.T, bias=True), atol=1e-2)


def test_a_tighter_clip_keeps_the_mean_of_cameras_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: pl.Encoder
) -> None:
    monkeypatch.setattr(federate_share, "noise_share", lambda size, **_: np.zeros(size))
    fed = replace(FED, l2_clip_norm=0.08)
    task = LatentsTask(fed, encoder.mean, 4.0)
    params = run(fed, task, [sealed(rows_of(index)) for index in range(6)], tmp_path)
    everybody = np.concatenate([rows_of(index) for index in range(6)])
    assert task.weight(params) < 0.5  # shortened, and the count with it
    np.testing.assert_allclose(task.moments(params).mean, everybody.mean(0), atol=0.05)


@given(st.integers(1, 40), st.floats(0.1, 1e4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_camera_moves_the_sum_by_one_at_most_before_clipping(
    num: int, spread: float, seed: int
) -> None:
    task = LatentsTask(FED, np.zeros(SIZE), 1.0)
    rows = np.random.default_rng(seed).standard_normal((num, SIZE)) * spread
    rows[0] = np.nan
    vector = task.contribution(
        jnp.zeros(task.size), jnp.asarray(rows, jnp.float32), jnp.ones(num, jnp.float32)
    )
    assert np.isfinite(np.asarray(vector)).all()
    assert float(jnp.linalg.norm(vector)) <= 1 + 1e-5


def test_the_stated_noise_is_the_noise(tmp_path: Path) -> None:
    size = 40
    fed = replace(FED, feature_size=size, min_nodes=6, epsilon=4.0)
    task = LatentsTask(fed, np.zeros(size), 5.0)
    params = run(fed, task, [None] * 6, tmp_path)
    told = task.moments(params)
    assert told.mean.std() == pytest.approx(told.mean_stddev, rel=0.35)
    second = params[1 + size :].std() * fed.expected_nodes
    assert second == pytest.approx(fed.noise_stddev, rel=0.15)
    for wrong in (2 / 3, 3 / 2):
        assert second != pytest.approx(fed.noise_stddev * wrong, rel=0.15)


@pytest.fixture
def fleet(tmp_path: Path, encoder: pl.Encoder) -> Path:
    """A federation that has ended."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    write_federation(folder / "federation.toml", FED)
    encoder.save(folder / "public.npz")
    task = load_task(folder / "public.npz", FED)
    run(FED, task, [sealed(encoder(rows_of(index))) for index in range(6)], folder)
    return folder


@pytest.fixture
def public_run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", {"step": 7, "data": [{"name": "public"}]})


def make_run(folder: Path, meta: dict[str, Any]) -> Path:
    folder.mkdir()
    np.savez(
        folder / "state.npz", meta=np.array(json.dumps(meta)),
        latent_mean=np.zeros(SIZE, np.float32), latent_chol=np.eye(SIZE, dtype=np.float32),
    )  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_the_prior_moves_toward_the_fleet_and_says_what_was_spent(
    fleet: Path, public_run: Path, tmp_path: Path
) -> None:
    told = finish(fleet, public_run, tmp_path / "out")
    with np.load(tmp_path / "out" / "state.npz") as file:
        mean, meta = file["latent_mean"], json.loads(str(file["meta"]))
    assert np.abs(mean).max() > 0
    training = meta["training"]
    assert training == told["training"]
    assert training["unit"] == "camera"
    assert (training["accountant"], training["relation"]) == ("PLD", "REPLACE_SPECIAL")
    assert 29 < training["epsilon"] <= 30
    assert training["stages"][0]["num_persons"] == 6
    assert "follows the protocol" in training["assumes"]
    assert meta["data"][0] == {"name": "public"}
    assert meta["data"][1]["is_private"]
    assert promise(tmp_path / "out" / NAME)["epsilon"] == training["epsilon"]
    finish(fleet, public_run, tmp_path / "again")  # post-processing: the same, for nothing
    with np.load(tmp_path / "again" / "state.npz") as file:
        np.testing.assert_array_equal(file["latent_mean"], mean)


def test_a_run_that_saw_private_people_is_refused(
    fleet: Path, public_run: Path, tmp_path: Path
) -> None:
    spent = make_run(tmp_path / "spent", {"training": {"unit": "person"}})
    with pytest.raises(PrivacyError, match="can't be added"):
        finish(fleet, spent, tmp_path / "out")
    (public_run / NAME).write_text("{}")
    with pytest.raises(PrivacyError, match="can't be added"):
        finish(fleet, public_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_federation_without_a_round_or_of_other_settings_is_refused(
    fleet: Path, public_run: Path, tmp_path: Path
) -> None:
    write_federation(fleet / "federation.toml", replace(FED, l2_clip_norm=0.9))
    with pytest.raises(PrivacyError, match="other settings"):
        finish(fleet, public_run, tmp_path / "out")
    (fleet / "state" / "federation.npz").unlink()
    with pytest.raises(PrivacyError, match="no round was applied"):
        finish(fleet, public_run, tmp_path / "out")
    write_federation(fleet / "federation.toml", replace(FED, task="head"))
    with pytest.raises(ConfigError, match="wanted latents"):
        finish(fleet, public_run, tmp_path / "out")


def test_an_encoder_of_another_length_is_refused(tmp_path: Path, encoder: pl.Encoder) -> None:
    encoder.save(tmp_path / "public.npz")
    with pytest.raises(InputError, match="agrees on feature_size = 5"):
        load_task(tmp_path / "public.npz", replace(FED, feature_size=5))
    np.savez(tmp_path / "public.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="wanted an encoder"):
        load_task(tmp_path / "public.npz", FED)
    with pytest.raises(ConfigError, match="task latents is one round"):
        replace(FED, rounds=2)
