"""The latents' distribution moves toward the private people, through the mechanism alone."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from veilcam.camera.errors import ConfigError
from veilcam.model import private_latents as pl
from veilcam.model.ledger import NAME, BudgetExceededError, promise
from veilcam.model.private_data import PrivateSet
from veilcam.model.statistics import Moments

SIZE = 5
SHIFT = np.array([1.0, -0.5, 0, 0, 0], np.float32)


@pytest.fixture
def encoder() -> pl.Encoder:
    """Descriptions are latents plus a little noise."""
    random = np.random.default_rng(0)
    white = random.standard_normal((600, SIZE))
    x = (white + 0.1 * random.standard_normal(white.shape)).astype(np.float32)
    held = np.arange(600) % 5 == 0
    return pl.fit(x, white, held, x[held][:, ::-1])


@pytest.fixture
def people(encoder: pl.Encoder) -> PrivateSet:
    random = np.random.default_rng(1)
    x = (random.standard_normal((1500, SIZE)) + SHIFT).astype(np.float32)
    return PrivateSet({"latent": encoder(x)}, np.arange(1500))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    arrays = {"latent_mean": np.ones(SIZE, np.float32), "weight": np.arange(3.0)}
    arrays |= {"latent_chol": 2 * np.eye(SIZE, dtype=np.float32)}
    np.savez(folder / "state.npz", meta=np.array(json.dumps({"step": 7})), **arrays)
    return folder


def test_the_encoder_finds_latents_and_states_how_well(encoder: pl.Encoder, tmp_path: Path) -> None:
    assert 0.9 < encoder.r2 < 1
    assert encoder.r2_grey < encoder.r2
    encoder.save(tmp_path / "encoder.npz")
    again = pl.Encoder.load(tmp_path / "encoder.npz")
    x = np.ones((2, SIZE), np.float32)
    np.testing.assert_array_equal(again(x), encoder(x))
    assert again.radius == encoder.radius


def test_the_mean_moves_toward_the_private_mean(
    run: Path, people: PrivateSet, encoder: pl.Encoder, tmp_path: Path
) -> None:
    told = pl.move_run(run, tmp_path / "out", people, encoder, epsilon=2.0, delta=1e-5)
    with np.load(tmp_path / "out" / "state.npz") as file:
        mean, chol, weight = file["latent_mean"], file["latent_chol"], file["weight"]
        meta = json.loads(str(file["meta"]))
    np.testing.assert_allclose(mean, 1 + 2 * SHIFT, atol=0.4)  # the run's chol is 2
    np.testing.assert_array_equal(np.triu(chol, 1), 0)
    np.testing.assert_array_equal(weight, np.arange(3.0))
    assert meta["training"] == told
    assert meta["step"] == 7
    assert json.loads((tmp_path / "out" / "meta.json").read_text()) == meta


def test_the_promise_is_the_plan_and_the_ledger(
    run: Path, people: PrivateSet, encoder: pl.Encoder, tmp_path: Path
) -> None:
    plan = pl.make_plan(people, epsilon=2.0, delta=1e-5)
    told = pl.move_run(run, tmp_path / "out", people, encoder, epsilon=2.0, delta=1e-5)
    assert told["epsilon"] == pytest.approx(plan.composed_epsilon)
    assert 1.9 < told["epsilon"] <= 2.0
    assert told == promise(tmp_path / "out" / NAME)
    assert told["unit"] == "person"


def test_a_spent_ledger_refuses(
    run: Path, people: PrivateSet, encoder: pl.Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pl.move_run(run, out, people, encoder, epsilon=2.0, delta=1e-5)
    before = (out / "state.npz").read_bytes()
    for epsilon in (1.0, 2.0):
        with pytest.raises(BudgetExceededError):
            pl.move_run(run, out, people, encoder, epsilon=epsilon, delta=1e-5)
        with pytest.raises(BudgetExceededError):
            pl.move_run(out, tmp_path / f"next{epsilon}", people, encoder, epsilon=2.0, delta=1e-5)
    assert (out / "state.npz").read_bytes() == before


def test_delta_must_hide_everybody(
    run: Path, people: PrivateSet, encoder: pl.Encoder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="delta"):
        pl.move_run(run, tmp_path / "out", people, encoder, epsilon=2.0, delta=1e-2)
    assert not (tmp_path / "out" / "state.npz").exists()


def test_held_out_people_never_reach_the_mechanism(tmp_path: Path, encoder: pl.Encoder) -> None:
    names = [f"person{i}" for i in range(40)]
    shade = {True: 255, False: 0}  # of the held out and of the others
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["file", "person", "colour"])
        writer.writeheader()
        for index, name in enumerate(names):
            for turn in range(2):
                file = f"{name}_{turn}.png"
                picture = np.full((8, 8, 3), shade[pl.is_held_out(name)], np.uint8)
                cv2.imwrite(str(tmp_path / file), picture)
                writer.writerow({"file": file, "person": name, "colour": int(index != 0)})
    held = {name for name in names if pl.is_held_out(name)}
    assert 0 < len(held) < 20
    people = pl.load_people(tmp_path, with_grey=True)
    assert people.num_persons == 40 - len(held)
    seen: list[int] = []

    def look(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(int(rows["bgr"].max()))
        return {"latent": np.zeros((len(rows["bgr"]), SIZE), np.float32)}

    people.map_pictures(look)
    assert max(seen) == 0
    kept = pl.chosen_rows(tmp_path, held_out=True, with_grey=True)
    assert {row["person"] for row in kept} == held
    colour = pl.load_people(tmp_path).num_persons
    assert people.num_persons - colour == (names[0] not in held)


def test_a_picture_without_a_face_says_nothing(encoder: pl.Encoder) -> None:
    encode = pl.encoder_of(
        encoder, lambda bgr: np.ones((len(bgr), SIZE), np.float32), lambda bgr: None
    )
    out = encode({"bgr": np.zeros((3, 128, 128, 3), np.uint8)})["latent"]
    np.testing.assert_allclose(out, np.tile(encoder.mean, (3, 1)), rtol=1e-6)


def test_the_same_moments_move_nothing(encoder: pl.Encoder) -> None:
    same = Moments(
        mean=encoder.mean, covariance=encoder.covariance, mean_stddev=0.0, covariance_stddev=0.0
    )
    mean, chol = pl.moved(np.ones(SIZE, np.float32), np.eye(SIZE, dtype=np.float32), encoder, same)
    np.testing.assert_allclose(mean, 1)
    np.testing.assert_allclose(chol, np.eye(SIZE), atol=1e-5)
