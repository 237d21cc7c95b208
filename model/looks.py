"""Learns how a bundle's latents look: paints heads, measures them, fits guesses of the numbers.

Only the bundle itself is needed. Whatever trained it, this adds nothing to what it tells of
anybody: it is post-processing of its weights.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float32, Int64

from veilcam.camera.code import HEAD_FIELDS
from veilcam.camera.generator import Generator
from veilcam.camera.head_model import fit_pose, measure_expression
from veilcam.camera.manifest import Bundle
from veilcam.camera.text import CALM
from veilcam.camera.text_looks import Looks
from veilcam.camera.text_tokens import COLUMNS, LOOKS
from veilcam.model.attributes import Measure, over_grey
from veilcam.model.text_data import Measured, Teacher

_log = logging.getLogger(__name__)
NUM_HEADS = 2000
_SCALES = (0.6, 1.3)  # of the Gaussian's draws: conditioning goes further out than plain draws
_RIDGE = 0.02
_HIDDEN = 48
_TESTED = 0.2
_LEARNED = 0.4  # share of a number's variance that is guessed where it was not fitted
_CLOSE = 0.35  # of the way to the nearest other class
_DRAWN = 200  # draws for each class, to see whether it is reached
_LIDS = ("eyelid_left", "eyelid_right")
_EXTREMES = {"yaw": 25.0, "pitch": 14.0, "mouth_open": 0.18, "mouth_wide": 0.96, "smile": 0.13,
             "eyelid_left": 0.02, "eyelid_right": 0.02, "brow": 0.465}  # fmt: skip


def calm_values() -> Float32[np.ndarray, " f"]:
    """Code values of a calm, frontal head."""
    return np.array([CALM.get(field.name, 0.0) for field in HEAD_FIELDS], np.float32)


def paint_heads(
    bundle: Bundle, num_heads: int, random: np.random.Generator
) -> tuple[Float32[np.ndarray, "n z"], np.ndarray]:
    """Latents, and the heads (n, 128, 128, 4) that the bundle paints of them."""
    generator = Generator(bundle, precision="int8", threads=1)
    scale = random.uniform(*_SCALES, (num_heads, 1))
    noise = random.standard_normal((num_heads, len(bundle.mean))) * scale
    latents = (bundle.mean + noise @ bundle.chol.T).astype(np.float32)
    values = calm_values()
    return latents, np.stack([generator.paint(values, latent) for latent in latents])


def learn_looks(
    bundle: Bundle,
    teacher: Teacher,
    pictures: tuple[Float32[np.ndarray, "n c"], Int64[np.ndarray, "n s"]],
    models: Path,
    *,
    num_heads: int = NUM_HEADS,
    seed: int = 0,
) -> tuple[Looks, dict[str, dict[str, bool]], dict[str, float]]:
    """Looks of a bundle's latents.

    Args:
        bundle: The generator.
        teacher: Names beard and glasses.
        pictures: Numbers and static tokens of public pictures: where the classes lie.
        models: Folder of the measuring nets.
        num_heads: Heads to paint and measure.
        seed: Of the latents that are painted to learn from; people who are cast later are not.

    Returns:
        The looks; for each look and class whether the generator's range comes near it; and for
        each number the share of its variance that is guessed on heads that were held out.
    """
    random = np.random.default_rng(seed)
    latents, heads = paint_heads(bundle, num_heads, random)
    measured = Measured.of(heads, ["painted"] * num_heads, models)
    numbers = teacher.complete(measured)
    is_face = measured.flag > 0.5
    _log.info("%d of %d painted heads are faces to the mesh", is_face.sum(), num_heads)
    latents, numbers = latents[is_face], numbers[is_face]
    fitted, told = fit_guesses(latents, numbers, random)
    centers, spreads = class_places(*pictures)
    low, high = np.nanquantile(numbers, [0.03, 0.97], axis=0)
    looks = Looks(
        **fitted,
        low=low.astype(np.float32),
        high=high.astype(np.float32),
        centers=centers,
        spreads=spreads,
    )
    reach = find_reach(looks)
    kept = without_unlearned(looks, told)
    drawn = find_drawn(kept, bundle.mean, bundle.chol)
    reach = {
        name: {level: is_near and drawn[name].get(level, True) for level, is_near in levels.items()}
        for name, levels in reach.items()
    }
    reach["skin"] = dict.fromkeys(reach["skin"], True)  # compose brings skin to its class
    return kept, reach, told


def without_unlearned(looks: Looks, told: dict[str, float]) -> Looks:
    """Looks that ask for no number that is not learned.

    A wish for it would still move the draw, to where the generator paints least like a face.
    """
    centers = looks.centers.copy()
    centers[:, :, [told[name] < _LEARNED for name in COLUMNS]] = np.nan
    return replace(looks, centers=centers)


def measure_moves(bundle: Bundle, models: Path, *, num_heads: int = 16) -> dict[str, float]:
    """Field -> how much of a change of the code shows on the painted head, by the face mesh.

    1 is all of it, 0 nothing. Each field goes from calm to where a caption would name it; gaze is
    not measured.
    """
    generator, measure = Generator(bundle, precision="int8", threads=1), Measure(models)
    random = np.random.default_rng(1)
    noise = 0.75 * random.standard_normal((num_heads, len(bundle.mean)))
    latents = (bundle.mean + noise @ bundle.chol.T).astype(np.float32)

    def seen(values: Float32[np.ndarray, " f"]) -> dict[str, float]:
        rows = []
        for latent in latents:
            mesh, _ = measure.mesh(over_grey(generator.paint(values, latent)))
            pose = fit_pose(mesh)
            rows.append({"yaw": pose.yaw_deg, "pitch": pose.pitch_deg}
                        | measure_expression(pose.canonical))  # fmt: skip
        return {name: float(np.mean([row[name] for row in rows])) for name in _EXTREMES}

    calm = calm_values()
    at = {field.name: index for index, field in enumerate(HEAD_FIELDS)}
    before, moves = seen(calm), {}
    for name, wanted in _EXTREMES.items():
        values = calm.copy()
        values[at[name]] = wanted
        if name in _LIDS:  # both: a wink is rarer than shut eyes
            values[[at[lid] for lid in _LIDS]] = wanted
        share = (seen(values)[name] - before[name]) / (wanted - float(calm[at[name]]))
        moves[name] = round(share, 2)
    return moves


def fit_guesses(
    latents: Float32[np.ndarray, "n z"],
    numbers: Float32[np.ndarray, "n c"],
    random: np.random.Generator,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Linear guess, its rest, the net on top; and how much is guessed where it was not fitted."""
    center, scale = latents.mean(0), np.maximum(latents.std(0), 1e-3)
    unit = (latents - center) / scale
    is_test = random.random(len(unit)) < _TESTED
    usual = np.nanmean(numbers, axis=0)
    spread = np.maximum(np.nanstd(numbers, axis=0), 1e-3)
    wanted = (numbers - usual) / spread
    known = np.isfinite(wanted)
    wanted = np.where(known, wanted, 0.0)
    linear = np.zeros((numbers.shape[1], unit.shape[1] + 1))
    design = np.concatenate([unit, np.ones((len(unit), 1))], axis=1)
    for column in range(numbers.shape[1]):
        use = known[:, column] & ~is_test
        rows, penalty = design[use], np.diag([_RIDGE * use.sum()] * unit.shape[1] + [1e-6])
        linear[column] = np.linalg.solve(rows.T @ rows + penalty, rows.T @ wanted[use, column])
    left = np.where(known, wanted - design @ linear.T, 0.0)
    hidden, out = _fit_net(unit, left, known, is_test, random)
    inner = np.maximum(unit @ hidden[:, :-1].T + hidden[:, -1], 0)
    missed = left - (inner @ out[:, :-1].T + out[:, -1])
    test = known & is_test[:, None]
    told = {
        name: float(1 - np.square(missed[test[:, c], c]).mean() / wanted[test[:, c], c].var())
        for c, name in enumerate(COLUMNS)
    }
    rest = np.sqrt([np.square(left[test[:, c], c]).mean() for c in range(len(COLUMNS))]) * spread
    back = linear[:, :-1] / scale * spread[:, None]
    bias = linear[:, -1] * spread + usual - back @ center
    fitted = {
        "linear": np.concatenate([back, bias[:, None]], axis=1),
        "rest": rest,
        "hidden": hidden,
        "out": out * spread[:, None],
        "center": center,
        "scale": scale,
    }
    return {k: np.asarray(v, np.float32) for k, v in fitted.items()}, told


def _fit_net(
    unit: np.ndarray, left: np.ndarray, known: np.ndarray, is_test: np.ndarray,
    random: np.random.Generator, *, num_steps: int = 1500,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Two layers on what the linear guess left over, kept small by weight decay."""
    size, num = unit.shape[1], left.shape[1]
    params = {
        "hidden": jnp.asarray(random.standard_normal((_HIDDEN, size + 1)) / np.sqrt(size)),
        "out": jnp.zeros((num, _HIDDEN + 1)),
    }
    adam = optax.adamw(optax.cosine_decay_schedule(4e-3, num_steps, 0.02), weight_decay=0.3)

    def loss(params: Any, x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
        inner = jax.nn.relu(x @ params["hidden"][:, :-1].T + params["hidden"][:, -1])
        guess = inner @ params["out"][:, :-1].T + params["out"][:, -1]
        return (jnp.square(guess - y) * mask).sum() / mask.sum()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, *batch: jax.Array) -> tuple[Any, Any]:
        update, state = adam.update(jax.grad(loss)(params, *batch), state, params)
        return optax.apply_updates(params, update), state

    state = adam.init(params)
    taught = np.flatnonzero(~is_test)
    for _ in range(num_steps):
        rows = random.choice(taught, 256)
        params, state = step(params, state, unit[rows], left[rows], known[rows].astype(float))
    return np.asarray(params["hidden"]), np.asarray(params["out"])


def class_places(
    numbers: Float32[np.ndarray, "n c"], static: Int64[np.ndarray, "n s"]
) -> tuple[Float32[np.ndarray, "l k c"], Float32[np.ndarray, "l k c"]]:
    """Median and deviation of the numbers in each class of public pictures; NaN where too few."""
    shape = (len(LOOKS), max(len(look.classes) for look in LOOKS), len(COLUMNS))
    centers, spreads = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for row, look in enumerate(LOOKS):
        for level in range(len(look.classes)):
            rows = numbers[static[:, row] == level]
            rows = rows[np.isfinite(rows).all(1)] if level or look.name != "hair_length" else rows
            if len(rows) >= 8:
                centers[row, level] = np.nanmedian(rows, axis=0)
                spreads[row, level] = np.nanstd(rows, axis=0)
    return centers, spreads


def find_reach(looks: Looks) -> dict[str, dict[str, bool]]:
    """Look -> class -> whether painted heads come near to where pictures of that class lie."""
    reach: dict[str, dict[str, bool]] = {}
    for row, look in enumerate(LOOKS):
        columns = [COLUMNS.index(name) for name in look.columns]
        places = looks.centers[row, : len(look.classes)][:, columns]
        reach[look.name] = {}
        for level, name in enumerate(look.classes):
            here = places[level]
            if not np.isfinite(here).all():
                reach[look.name][name] = False
                continue
            others = np.delete(places, level, axis=0)
            apart = np.linalg.norm(others[np.isfinite(others).all(1)] - here, axis=1).min()
            painted = np.clip(here, looks.low[columns], looks.high[columns])
            reach[look.name][name] = bool(np.linalg.norm(painted - here) <= _CLOSE * apart)
    return reach


def find_drawn(
    looks: Looks, mean: Float32[np.ndarray, " z"], chol: Float32[np.ndarray, "z z"]
) -> dict[str, dict[str, bool]]:
    """Look -> class -> whether most draws that ask for it come nearest to it; of those asked for.

    A class may lie within the range of each number and yet where no head is: light hair of little
    colour is grey, and a generator may paint light hair and hair of little colour, but none both.
    """
    random = np.random.default_rng(2)
    drawn: dict[str, dict[str, bool]] = {}
    for look in LOOKS:
        drawn[look.name] = {}
        for level, name in enumerate(look.classes):
            if not len(looks.targets({look.name: level})[0]):
                continue
            latents = [looks.draw(mean, chol, {look.name: level}, random) for _ in range(_DRAWN)]
            near = [looks.nearest_class(look.name, latent) == level for latent in latents]
            drawn[look.name][name] = bool(np.mean(near) > 0.5)
    return drawn
