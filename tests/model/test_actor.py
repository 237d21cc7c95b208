"""The actor generator, its data and its training, on a few simulated stand-ins made here."""

import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from veilcam.camera.actor_code import (
    COLOURS,
    NUM_GARMENTS,
    NUM_VALUES,
    PATCH_HW,
    POINTS,
    neutral_values,
)
from veilcam.camera.body_points import NUM_POINTS, POINT
from veilcam.camera.errors import ConfigError, InputError
from veilcam.model import checkpoint
from veilcam.model.actor import NOISE_SIZE, ActorGenerator
from veilcam.model.actor_config import load_actor_config
from veilcam.model.actor_data import EVEN_LIGHT, MIRRORED, ActorPack, light_numbers, sample
from veilcam.model.actor_points import FACE_MAP, NUM_DRAWN, NUM_MAPS, draw_pose
from veilcam.model.actor_recolour import cloth_mask, recolour
from veilcam.model.actor_train import ActorTrainer, held_out_psnr_db
from veilcam.model.train import train

STANDING = neutral_values()[POINTS].reshape(NUM_POINTS, 2)
TOP, BOTTOM = (40, 50, 180), (150, 60, 30)


def figure(points):
    """A flat person: grey head, red top, blue trousers."""
    at = (points * PATCH_HW[::-1]).astype(int)
    bgra = np.zeros((*PATCH_HW, 4), np.uint8)

    def limb(a, b, colour, width):
        ends = (tuple(int(v) for v in at[POINT[n]]) for n in (a, b))
        cv2.line(bgra, *ends, (*colour, 255), width)

    for side in ("left", "right"):
        limb(f"{side}_hip", f"{side}_knee", BOTTOM, 9)
        limb(f"{side}_knee", f"{side}_ankle", BOTTOM, 9)
        limb(f"{side}_shoulder", f"{side}_elbow", TOP, 7)
        limb(f"{side}_elbow", f"{side}_wrist", TOP, 7)
    limb("left_shoulder", "right_hip", TOP, 14)
    limb("right_shoulder", "left_hip", TOP, 14)
    cv2.circle(bgra, tuple(int(v) for v in at[POINT["nose"]]), 9, (120, 120, 120, 255), -1)
    return bgra


def write_pack(path: Path, people=2, each=10):
    random = np.random.default_rng(0)
    count = people * each
    points = np.clip(STANDING + random.uniform(-0.03, 0.03, (count, 17, 2)), 0.02, 0.98)
    points = points.astype(np.float32)
    colours = np.tile(
        np.array([*TOP, *BOTTOM, 30, 40, 50, 120, 120, 120], np.float32) / 255, (people, 1)
    )
    blobs, ends = [], []
    for row in range(count):
        bgra = figure(points[row])
        mask = cloth_mask(bgra, points[row], colours[0]) * 120
        for image in (bgra[..., :3], bgra[..., 3], mask):
            blobs.append(cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].ravel())
            ends.append(len(blobs[-1]))
    np.savez(
        path,
        blob=np.concatenate(blobs),
        ends=np.cumsum(ends),
        points=points,
        seen=np.ones((count, 17), bool),
        found=np.concatenate([points, np.full((count, 17, 1), 0.9, np.float32)], axis=2),
        identity=np.repeat(np.arange(people), each).astype(np.int32),
        yaw=random.uniform(-180, 180, count).astype(np.float32),
        pitch=np.full(count, 10.0, np.float32),
        light=np.tile(np.array([[0.0, 45, 1.2, 0, 0.5, 0, 0]], np.float32), (count, 1)),
        colours=colours,
        garment=np.arange(people, dtype=np.int32) % NUM_GARMENTS,
        build=np.zeros(people, np.int32),
        manifest=json.dumps({"pictures": {"simulated people": count}, "names_sha256": "0" * 64}),
    )
    return path


@pytest.fixture(scope="module")
def pack_path(tmp_path_factory):
    return write_pack(tmp_path_factory.mktemp("pack") / "actors.npz")


@pytest.fixture(scope="module")
def pack(pack_path):
    return ActorPack.load(pack_path)


def test_what_is_painted_has_the_promised_shape():
    def paint(values, latent):
        return ActorGenerator(EVEN_LIGHT, rngs=nnx.Rngs(0)).paint(values, latent)

    shape = jax.eval_shape(paint, jnp.asarray(neutral_values()), jnp.zeros(NOISE_SIZE)).shape
    assert shape == (*PATCH_HW, 4)


def test_maps_lie_on_their_limbs_and_move_with_them():
    colours = jnp.full((4, 3), 0.5)
    seen = jnp.ones(17)
    maps = np.asarray(draw_pose(jnp.asarray(STANDING), seen, colours, size_hw=(96, 48)))
    assert maps.shape == (96, 48, NUM_DRAWN)
    for index, name in enumerate(("left_elbow", "left_wrist")):
        x, y = (STANDING[POINT[name]] * (48, 96)).astype(int)
        assert maps[y, x, index] > 0.5
    moved = STANDING.copy()
    moved[POINT["left_wrist"]] = 0.9, 0.1
    after = np.asarray(draw_pose(jnp.asarray(moved), seen, colours, size_hw=(96, 48)))
    changed = np.abs(after - maps).max((0, 1))
    assert changed[1] > 0.5
    assert changed[4:NUM_MAPS].max() < 1e-6


def test_a_hidden_face_has_no_map_and_a_hidden_arm_a_weak_one():
    colours = jnp.full((4, 3), 0.5)
    maps = draw_pose(jnp.asarray(STANDING), jnp.zeros(17), colours, size_hw=(48, 24))
    assert float(maps[..., FACE_MAP].max()) == 0
    shown = draw_pose(jnp.asarray(STANDING), jnp.ones(17), colours, size_hw=(48, 24))
    assert 0.3 < float(maps[..., 0].max() / shown[..., 0].max()) < 0.5


def test_the_sketch_has_the_colours_of_the_code():
    colours = jnp.asarray(np.eye(4, 3), jnp.float32)
    maps = np.asarray(draw_pose(jnp.asarray(STANDING), jnp.ones(17), colours, size_hw=(96, 48)))
    x, y = (STANDING[POINT["left_elbow"]] * (48, 96)).astype(int)
    assert maps[y, x, NUM_MAPS:].argmax() == 0
    x, y = (STANDING[POINT["left_knee"]] * (48, 96)).astype(int)
    assert maps[y, x, NUM_MAPS:].argmax() == 1


def test_a_mirrored_point_is_its_own_mirror_image():
    assert (MIRRORED[MIRRORED] == np.arange(17)).all()
    assert MIRRORED[POINT["left_wrist"]] == POINT["right_wrist"]
    assert MIRRORED[POINT["nose"]] == POINT["nose"]


def test_clothes_are_found_and_recoloured_and_nothing_else_is(pack):
    mask = pack.cloth[0]
    bgra = pack.bgra[0]
    assert ((bgra[mask == 1][:, :3] - np.array(TOP)).astype(int) == 0).mean() > 0.9
    assert ((bgra[mask == 2][:, :3] - np.array(BOTTOM)).astype(int) == 0).mean() > 0.9
    image = jnp.asarray(bgra, jnp.float32) / 255
    own = jnp.asarray(pack.statics[0, :6])
    changed = 0
    for seed in range(8):
        out, colours = recolour(image, jnp.asarray(mask, jnp.float32), own, jax.random.key(seed))
        out = np.asarray(out)
        assert np.allclose(out[mask == 0], np.asarray(image)[mask == 0])
        shown = np.median(out[mask == 1][:, :3], axis=0)
        assert np.allclose(shown, np.minimum(colours[:3], 1), atol=0.02)
        changed += not np.allclose(colours[:3], own[:3])
    assert 2 <= changed <= 8


def test_a_batch_is_what_the_generator_wants(pack):
    batch = sample(pack.arrays(), 12, key=jax.random.key(0))
    assert batch["image"].shape == (12, *PATCH_HW, 4)
    assert batch["values"].shape == (12, NUM_VALUES)
    values = np.asarray(batch["values"])
    assert values[:, COLOURS].min() >= 0
    assert values[:, COLOURS].max() <= 1
    # the points lie on the figure, mirrored or not
    for row in range(12):
        x, y = values[row, POINTS].reshape(17, 2)[POINT["left_knee"]] * PATCH_HW[::-1]
        alpha = np.asarray(batch["image"])[row, ..., 3]
        assert alpha[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6].max() > 0.9


def test_rows_kept_for_the_test_are_not_trained_on(pack):
    kept, used = (set(pack.rows(held_out=h).tolist()) for h in (True, False))
    assert kept == {9, 19}
    assert not kept & used


def test_light_numbers_are_about_one():
    assert np.abs(EVEN_LIGHT).max() < 1.5
    left, right = (light_numbers(np.array([[a, 45, 1, 0, 0.5, 0, 0]]), np.array([10.0])) for a in
                   (-90.0, 90.0))  # fmt: skip
    assert left[0, 0] == pytest.approx(-right[0, 0])


def config_file(folder, pack_path, **changes):
    keys = {"generator": "actor", "pack": str(pack_path), "batch": 2, "total_steps": 6,
            "checkpoint_every": 3, "log_every": 1} | changes  # fmt: skip
    path = folder / "actor.toml"
    path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items()))
    return path


@pytest.mark.slow  # compiles for a minute where cores are busy
def test_one_command_trains_and_goes_on_where_it_was_stopped(tmp_path, pack_path):
    config = config_file(tmp_path, pack_path, total_steps=8, learning_rate=4e-3, ema=0.5)
    trainer = ActorTrainer(load_actor_config(config), ActorPack.load(pack_path))
    before = held_out_psnr_db(trainer)
    for _ in range(8):
        trainer.step()
        if trainer.step_index == 4:
            (tmp_path / "run").mkdir()
            checkpoint.save(trainer, tmp_path / "run", {})
    assert held_out_psnr_db(trainer) > before + 1  # it learns
    train(config, run_dir=tmp_path / "run", resume=True)
    resumed = checkpoint.load_table(tmp_path / "run", "latents")
    assert np.allclose(resumed, np.asarray(trainer.state["latents"]), atol=1e-4)
    assert (tmp_path / "run" / "sheet.png").is_file()


def test_a_wrong_key_and_a_missing_pack_are_told(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'batches'"):
        load_actor_config(config_file(tmp_path, "x", batches=1))
    with pytest.raises(InputError, match="actor_prepare"):
        ActorPack.load(tmp_path / "none.npz")
    path = tmp_path / "no.toml"
    path.write_text("generator = 'actor'\n")
    with pytest.raises(ConfigError, match="key 'pack' is missing"):
        load_actor_config(path)
