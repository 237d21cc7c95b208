"""A federated discriminator of the face bundle: the prior follows it, and says what was spent."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("Crypto", reason="./scripts/setup federate")

from veilcam.camera.errors import ConfigError
from veilcam.model import federate_critic as fc
from veilcam.model import federate_setup
from veilcam.model.federate import Federation, write_federation
from veilcam.model.federate_data import Basis, write_features, write_public
from veilcam.model.federate_fleet import LocalFleet
from veilcam.model.federate_rounds import Conductor
from veilcam.model.federate_setup import with_public
from veilcam.model.federate_task import read_task
from veilcam.model.ledger import NAME, promise
from veilcam.model.private_data import PrivacyError, PrivateSet

SIZE, CAMERAS = 4, 20
SHIFT = np.array([1.0, -0.5, 0.0, 0.0])
FED = Federation(
    name="critic", num_nodes=CAMERAS, epsilon=8.0, delta=1e-5, rounds=5, feature_size=SIZE,
    min_nodes=16, max_nodes=CAMERAS, l2_clip_norm=0.5, learning_rate=0.5, weight_decay=0.01,
)  # fmt: skip


def test_a_gaussian_weighed_by_the_score_is_moved_by_the_slope() -> None:
    random = np.random.default_rng(0)
    noise = random.standard_normal((200_000, 3))
    truth = np.array([0.6, -0.3, 0.0])
    scores = 2 + noise @ truth
    weight = np.exp(scores)
    b, explained = fc.slope(noise, scores)
    np.testing.assert_allclose(b, truth, atol=2e-3)
    np.testing.assert_allclose(weight @ noise / weight.sum(), b, atol=0.02)
    assert explained == pytest.approx(1.0, abs=1e-3)
    b, explained = fc.slope(noise, scores + random.standard_normal(len(noise)))
    np.testing.assert_allclose(b, truth, atol=1e-2)
    assert explained == pytest.approx(0.45 / 1.45, abs=0.02)
    assert fc.slope(noise, np.ones(len(noise)))[1] == 0.0  # a discriminator that learned nothing


def test_the_prior_goes_no_further_than_it_may() -> None:
    shift, told = fc.follow(lambda rows: 100 * rows[:, 0], lambda noise: noise, SIZE)
    assert np.linalg.norm(shift) == pytest.approx(3.0)
    assert told["slope"] > 90
    assert told["moved"] == 3.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that has ended: people of 20 cameras, 16 each, off the public faces."""
    folder = tmp_path_factory.mktemp("fleet")
    random = np.random.default_rng(0)
    basis = Basis(np.zeros(SIZE), np.eye(SIZE))
    public = random.standard_normal((500, SIZE))
    write_features(folder / "public.npz", public, basis, values=np.zeros((9, 3), np.float32))
    federation = with_public(FED, folder / "public.npz")
    write_federation(folder / "federation.toml", federation)
    cameras: list[PrivateSet | None] = [
        PrivateSet(
            {"x": (random.standard_normal((16, SIZE)) + SHIFT).astype(np.float32)}, np.arange(16)
        )
        for _ in range(CAMERAS)
    ]
    task = read_task(folder / "public.npz", federation)
    with (
        LocalFleet(federation, task, cameras, folder / "nodes") as local,
        Conductor(federation, task, local.roster, folder / "state", local.exchange) as conductor,
    ):
        assert all(report.outcome == "applied" for report in conductor.run())
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A public run whose painted heads are their latents."""
    folder = tmp_path / "run"
    folder.mkdir()
    meta = {"step": 7, "data": [{"name": "public"}]}
    mean, chol = np.zeros(SIZE, np.float32), 2 * np.eye(SIZE, dtype=np.float32)
    np.savez(
        folder / "state.npz", meta=np.array(json.dumps(meta)), latent_mean=mean, latent_chol=chol
    )
    (folder / "meta.json").write_text(json.dumps(meta))
    monkeypatch.setattr(fc, "painter", lambda *_: lambda noise: noise)
    return folder


def test_the_prior_moves_toward_the_fleet_and_says_what_was_spent(
    fleet: Path, run: Path, tmp_path: Path
) -> None:
    told = federate_setup.move(fleet, run, tmp_path / "out", tmp_path / "net.npz")
    with np.load(tmp_path / "out" / "state.npz") as file:
        mean, chol, meta = file["latent_mean"], file["latent_chol"], json.loads(str(file["meta"]))
    white = mean / 2
    cosine = white @ SHIFT / np.linalg.norm(white) / np.linalg.norm(SHIFT)
    assert cosine > 0.8
    assert 0.3 < np.linalg.norm(white) < 2.0
    np.testing.assert_array_equal(chol, 2 * np.eye(SIZE))
    training: dict[str, Any] = meta["training"]
    assert training == told["training"]
    assert (training["unit"], training["accountant"]) == ("camera", "PLD")
    assert 7.9 < training["epsilon"] <= 8.0
    assert training["stages"][0]["iterations"] == 5
    assert "follows the protocol" in training["assumes"]
    assert [entry.get("is_private", False) for entry in meta["data"]] == [False, True]
    assert meta["federated_critic"]["axes"] == SIZE
    assert promise(tmp_path / "out" / NAME)["epsilon"] == training["epsilon"]
    federate_setup.move(fleet, run, tmp_path / "again", tmp_path / "net.npz")  # costs nothing
    with np.load(tmp_path / "again" / "state.npz") as file:
        np.testing.assert_array_equal(file["latent_mean"], mean)
    with pytest.raises(PrivacyError, match="can't be added"):
        federate_setup.move(fleet, tmp_path / "out", tmp_path / "more", tmp_path / "net.npz")


def test_what_is_no_critic_is_refused(fleet: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--features"):
        federate_setup.move(fleet, run, tmp_path / "out", None)
    other = tmp_path / "other"
    other.mkdir()
    write_federation(other / "federation.toml", replace(FED, task="moments", rounds=1))
    with pytest.raises(ConfigError, match="wanted head"):
        federate_setup.move(other, run, tmp_path / "out", tmp_path / "net.npz")
    plain = tmp_path / "plain"
    (plain / "state").mkdir(parents=True)
    write_public(plain / "public.npz", np.random.default_rng(0).standard_normal((50, 6)), SIZE)
    federation = with_public(FED, plain / "public.npz")
    write_federation(plain / "federation.toml", federation)
    for name in ("federation.npz", NAME):
        (plain / "state" / name).write_bytes((fleet / "state" / name).read_bytes())
    with np.load(fleet / "state" / "federation.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays["fingerprint"] = np.array(federation.fingerprint)
    np.savez(plain / "state" / "federation.npz", **arrays)
    with pytest.raises(ConfigError, match="veilcam federate critic"):
        federate_setup.move(plain, run, tmp_path / "out", tmp_path / "net.npz")
