"""Simulated people -> one training pack for the actor generator. Nobody in it is real.

python -m veilcam.model.actor_prepare DATA -o actors.npz
"""

import hashlib
import json
import logging
from importlib.resources import files
from pathlib import Path

import click
import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from veilcam.camera.actor_code import NUM_BUILDS, PATCH_HW, framing
from veilcam.camera.body_points import POINT
from veilcam.camera.errors import InputError
from veilcam.camera.pose import PoseModel
from veilcam.model.actor_recolour import cloth_mask
from veilcam.model.prepare import over_grey

_log = logging.getLogger(__name__)
# trousers and T-shirt, shorts, skirt, leggings, shirt, pullover, jacket, suit
_GARMENT = {
    "female_casualsuit01": 0, "male_casualsuit04": 0, "male_casualsuit06": 0, "male_worksuit01": 0,
    "female_casualsuit02": 1, "female_elegantsuit01": 2, "female_sportsuit01": 3,
    "male_casualsuit01": 4, "male_casualsuit03": 4, "male_casualsuit02": 5,
    "male_casualsuit05": 6, "male_elegantsuit01": 7,
}  # fmt: skip
_TRUNK = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
_LEGS = (("left_hip", "left_knee"), ("right_hip", "right_knee"))


def cut(
    bgra: UInt8[np.ndarray, "h w 4"], points_xy: Float32[np.ndarray, "p 2"]
) -> tuple[UInt8[np.ndarray, "192 96 4"], Float32[np.ndarray, "3"]]:
    """The person framed as the camera frames one, and the rectangle: left, top, height."""
    rows, columns = np.nonzero(bgra[..., 3] > 127)
    low = np.minimum((columns.min(), rows.min()), points_xy.min(0))
    high = np.maximum((columns.max() + 1, rows.max() + 1), points_xy.max(0))
    left, top, size = framing((*low, *(high - low)))
    scale = PATCH_HW[0] / size
    # twice as large first: a warp that shrinks by more than that would alias
    matrix = np.array([[2 * scale, 0, -2 * left * scale], [0, 2 * scale, -2 * top * scale]])
    premultiplied = bgra.astype(np.float32)
    premultiplied[..., :3] *= premultiplied[..., 3:] / 255
    large = cv2.warpAffine(
        premultiplied, matrix, (2 * PATCH_HW[1], 2 * PATCH_HW[0]), flags=cv2.INTER_CUBIC
    )
    small = cv2.resize(large, PATCH_HW[::-1], interpolation=cv2.INTER_AREA)
    alpha = np.maximum(small[..., 3:], 1e-3)
    small[..., :3] *= 255 / alpha
    small[small[..., 3] < 1] = 0
    return np.round(small).clip(0, 255).astype(np.uint8), np.float32([left, top, size])


def _median_colour(
    pictures: list[np.ndarray], polygons: list[list[np.ndarray]]
) -> Float32[np.ndarray, "3"]:
    """Median BGR 0-1 inside polygons (patch pixels) of several pictures."""
    seen = []
    for bgra, shapes in zip(pictures, polygons, strict=True):
        mask = np.zeros(PATCH_HW, np.uint8)
        for shape in shapes:
            if len(shape) == 2:
                ends = [tuple(int(v) for v in p) for p in shape]
                cv2.line(mask, ends[0], ends[1], 255, 2)
            else:
                cv2.fillPoly(mask, [shape.astype(np.int32)], 255)
        seen.append(bgra[(mask > 0) & (bgra[..., 3] > 250)][:, :3])
    colours = np.concatenate(seen)
    return np.float32(np.median(colours, axis=0) / 255 if len(colours) else (0.3, 0.3, 0.3))


def _looks(
    labels: dict[str, np.ndarray], identity: np.ndarray, bgra: np.ndarray, points: np.ndarray
) -> dict[str, np.ndarray]:
    """Static fields of each identity: colours (i, 12), garment (i), build (i)."""
    colours, widths = [], []
    for person in range(len(labels["id_outfit"])):
        rows = np.flatnonzero(identity == person)
        pictures = [bgra[row] for row in rows]
        pixel = [points[row] * PATCH_HW[::-1] for row in rows]
        trunk = [[_shrunk(at[[POINT[n] for n in _TRUNK]])] for at in pixel]
        legs = [[at[[POINT[a], POINT[b]]] for a, b in _LEGS] for at in pixel]
        skin, hair = (labels[k][person][::-1] / 255 for k in ("id_skin_rgb", "id_hair_rgb"))
        top, bottom = _median_colour(pictures, trunk), _median_colour(pictures, legs)
        colours.append(np.concatenate([top, bottom, hair, skin]))
        standing = [row for row in rows if labels["pose_kind"][row] != "sit"]
        heights = [np.ptp(points[row][:, 1]) * PATCH_HW[0] for row in standing]
        areas = [(bgra[row][..., 3] > 127).sum() for row in standing]
        widths.append(float(np.median(np.array(areas) / np.square(heights))))
    order = np.argsort(np.argsort(widths))
    return {
        "colours": np.array(colours, np.float32),
        "garment": np.array([_GARMENT[str(name)] for name in labels["id_outfit"]], np.int32),
        "build": (order * NUM_BUILDS // len(order)).astype(np.int32),
    }


def _shrunk(shape: np.ndarray) -> np.ndarray:
    middle = shape.mean(0)
    return middle + 0.7 * (shape - middle)


def build_pack(data: Path, out: Path, *, limit: int = 0) -> None:
    """Writes the pack; see `model.actor_data.ActorPack` for its arrays."""
    folder = data / "persons/people"
    if not (folder / "keypoints.npz").is_file():
        raise InputError(f"{folder}: no keypoints.npz; wanted the folder of simulated people")
    with np.load(folder / "keypoints.npz", allow_pickle=False) as file:
        labels = {name: file[name] for name in file.files}
    count = min(limit or len(labels["files"]), len(labels["files"]))
    pose = PoseModel(Path(str(files("veilcam.camera") / "assets")) / "movenet.onnx")
    bgra = np.empty((count, *PATCH_HW, 4), np.uint8)
    points, seen = labels["keypoints_xy"][:count].copy(), labels["keypoints_visible"][:count]
    found = np.empty((count, 17, 3), np.float32)
    for row in range(count):
        picture = cv2.imread(str(folder / str(labels["files"][row])), cv2.IMREAD_UNCHANGED)
        bgra[row], place = cut(picture, points[row])
        left, top, size = (float(v) for v in place)
        unit = np.float32([size / 2, size])
        found[row] = pose(over_grey(picture), (left, top, size / 2, size))
        points[row] = (points[row] - (left, top)) / unit
        found[row, :, :2] = (found[row, :, :2] - (left, top)) / unit
        if row % 500 == 0:
            _log.info("%d of %d pictures", row, count)
    identity = labels["identity"][:count].astype(np.int32)
    labels = {k: v[: identity.max() + 1] if k.startswith("id_") else v for k, v in labels.items()}
    looks = _looks(labels, identity, bgra, points)
    cloth = np.stack(
        [
            cloth_mask(bgra[row], points[row], looks["colours"][identity[row]])
            for row in range(count)
        ]
    )
    _write(out, bgra, cloth, labels["files"][:count], {
        "points": points.astype(np.float32), "seen": seen, "found": found, "identity": identity,
        "yaw": labels["body_yaw"][:count], "pitch": labels["camera_pitch"][:count],
        "light": labels["light"][:count], **looks,
    })  # fmt: skip


def _write(
    out: Path, bgra: np.ndarray, cloth: np.ndarray, names: np.ndarray, arrays: dict[str, np.ndarray]
) -> None:
    blobs, ends = [], []
    for patch, mask in zip(bgra, cloth, strict=True):
        for image, quality in ((patch[..., :3], 90), (patch[..., 3], 90), (mask * 120, 101)):
            encoded = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
            blobs.append(encoded.reshape(-1))
            ends.append(len(encoded))
    digest = hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()
    manifest = {"pictures": {"simulated people": len(bgra)}, "names_sha256": digest}
    partial = out.with_suffix(".partial.npz")
    np.savez(
        partial, blob=np.concatenate(blobs), ends=np.cumsum(ends),
        manifest=np.array(json.dumps(manifest)), **arrays,
    )  # fmt: skip
    partial.rename(out)
    _log.info("%s: %d pictures, %.1f MiB", out, len(bgra), out.stat().st_size / 2**20)


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
@click.option("--limit", default=0, help="Stop after this many pictures (0: all).")
def main(data: Path, out: Path, limit: int) -> None:
    """Prepare the training pack of the actor generator from the data folder DATA."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build_pack(data, out, limit=limit)


if __name__ == "__main__":
    main()
